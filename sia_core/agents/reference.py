"""One page of reference for both agents: the SDK of a harness, its limits, and the validation of a rewrite.

The signatures are read from the SDK's source, so that the page is never out of date.
"""

import ast
from collections.abc import Iterator
from importlib.resources import files
from itertools import pairwise

from sia_core.agents.static import Allowed
from sia_core.domain.config import MINIBATCH_PROBLEMS, MINIBATCH_ROLLOUTS, SMOKE_ROLLOUTS
from sia_core.domain.harness import MAX_BYTES, MAX_FILES
from sia_core.domain.task_config import TaskConfig

_CLASSES = ("GatewayError", "Reply", "Context")
_HIDDEN = "_"


def reference(sdk: str, task: TaskConfig, allowed: Allowed | None) -> str:
    """Write the page.

    Args:
        sdk: source of the SDK.
        allowed: limits of manifests in this run; None before the first harness.
    """
    text = (files("sia_core.agents") / "prompts" / "reference.md").read_text()
    return text.format(
        sdk="\n".join(signatures(sdk)),
        files=MAX_FILES,
        kilobytes=MAX_BYTES // 1024,
        seconds=f"{task.limits.seconds:g}",
        memory=task.limits.memory_mb,
        disk=task.limits.disk_mb,
        max_tokens=task.sampling.max_tokens,
        manifest=_manifest(task, allowed),
        smoke=SMOKE_ROLLOUTS,
        minibatch=f"{MINIBATCH_PROBLEMS} problems x {MINIBATCH_ROLLOUTS} rollouts",
    )


def signatures(sdk: str) -> Iterator[str]:
    """Public names of the SDK for a harness, with signatures and docstrings."""
    for node in ast.parse(sdk).body:
        if isinstance(node, ast.ClassDef) and node.name in _CLASSES:
            yield f"class {node.name}({', '.join(map(ast.unparse, node.bases))}): {_doc(node)}"
            yield from _members(node)


def _members(node: ast.ClassDef) -> Iterator[str]:
    attributes = list(_attributes(node.body))
    for one in node.body:
        if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef):
            if one.name == "__init__":
                attributes += _attributes(one.body)
            elif not one.name.startswith(_HIDDEN):
                kind = "async def" if isinstance(one, ast.AsyncFunctionDef) else "def"
                returns = f" -> {ast.unparse(one.returns)}" if one.returns else ""
                yield f"    {kind} {one.name}({ast.unparse(one.args)}){returns}: {_doc(one)}"
    yield from (f"    {name}: {about}" for name, about in attributes)


def _attributes(body: list[ast.stmt]) -> Iterator[tuple[str, str]]:
    """Attributes with a docstring, in order."""
    for one, after in pairwise(body):
        target = _target(one)
        if target is None or not isinstance(after, ast.Expr) or not isinstance(after.value, ast.Constant):
            continue
        name = target.attr if isinstance(target, ast.Attribute) else target.id
        if not name.startswith(_HIDDEN):
            kind = f" ({ast.unparse(one.annotation)})" if isinstance(one, ast.AnnAssign) else ""
            yield name + kind, " ".join(str(after.value.value).split())


def _target(one: ast.stmt) -> ast.Attribute | ast.Name | None:
    target = one.target if isinstance(one, ast.AnnAssign) else one.targets[0] if isinstance(one, ast.Assign) else None
    return target if isinstance(target, ast.Attribute | ast.Name) else None


def _doc(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    return " ".join((ast.get_docstring(node) or "").split())


def _manifest(task: TaskConfig, allowed: Allowed | None) -> str:
    if allowed is None:
        modules = ", ".join(task.rewrite.modules) or "none"
        return f"modules: {modules} beside numpy, scipy and sklearn; later versions may have up to \
{task.rewrite.budget:g} times the budget that this one asks for"
    budget = ", ".join(f"{name} {value:g}" for name, value in allowed.budget.items())
    modules, needs = (", ".join(sorted(names)) or "none" for names in (allowed.modules, allowed.needs))
    return f"at most {budget}; modules: {modules}; needs: {needs}"
