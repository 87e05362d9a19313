"""The first rung: static checks of a rewritten harness.

Not covered, because the sandbox restricts them: imports by a name made at run time, and imports of code that is
passed to `ctx.run`.

Only a rewrite that equals an earlier rejected one except for comments and layout is a repetition. Any other rewrite
may be a repair, and is tried.
"""

import ast
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sia_core.agents.normal import UNREADABLE, imported, imports, normal_digest
from sia_core.domain.harness import Harness, HarnessConfig
from sia_core.domain.lineage import RungResult
from sia_core.domain.task_config import RewriteLimits

RUNG: Final = "static"
CLIENTS: Final = ("openai", "anthropic", "httpx", "httpx2")
"""Client libraries that `ctx.http_client()` supports."""


@dataclass(frozen=True)
class Rejected:
    """An earlier rewrite that was rejected."""

    name: str
    """Agents' name for the node or draft."""
    harness: Harness
    reason: str


@dataclass(frozen=True)
class Allowed:
    """Limits of manifests in this run."""

    budget: Mapping[str, float]
    modules: frozenset[str]
    needs: frozenset[str]

    @classmethod
    def of(cls, first: HarnessConfig, task: RewriteLimits) -> "Allowed":
        """Derive the limits from the run's first harness, so that generations cannot raise them step by step."""
        budget = {name: value * task.budget for name, value in first.budget.model_dump().items()}
        return cls(budget, frozenset({*first.modules, *task.modules}), frozenset({*first.needs, *task.needs}))


def check(
    child: Harness,
    parent: Harness | None,
    allowed: Allowed,
    *,
    answers: Collection[str] = (),
    rejected: Sequence[Rejected] = (),
) -> RungResult:
    """Check a rewrite, or a first harness if `parent` is None.

    Args:
        answers: long texts of private data that no file may contain.
        rejected: earlier rewrites of this run.
    """
    started = time.perf_counter()
    faults = [*_manifest(child, allowed), *_unreadable(child)]
    if not faults:
        faults = [*_entry(child), *_imports(child), *_answers(child, parent, answers)]
    if not faults and parent is not None:
        faults = [*_no_op(child, parent), *_repeated(child, rejected)]
    reason, *others = faults or ["manifest, syntax, entry, imports and files are sound"]
    seconds = round(time.perf_counter() - started, 4)
    return RungResult(RUNG, not faults, reason, tuple(others), {"faults": len(faults)}, seconds)


def _manifest(child: Harness, allowed: Allowed) -> Iterator[str]:
    config = child.config
    for name, value in config.budget.model_dump().items():
        if value > allowed.budget[name]:
            yield f"harness.toml: budget.{name} is {value:g}, at most {allowed.budget[name]:g} is allowed in this run"
    for kind, asked, may in (("modules", config.modules, allowed.modules), ("needs", config.needs, allowed.needs)):
        if more := sorted(set(asked) - may):
            known = ", ".join(sorted(may)) or "none"
            yield f"harness.toml: {kind} may not be widened by {', '.join(more)} (allowed in this run: {known})"


def _unreadable(child: Harness) -> Iterator[str]:
    for name, data in sorted(child.files.items()):
        if not name.endswith((".py", ".toml")) and not name.startswith("prompts/"):
            continue
        try:
            data.decode()
        except UnicodeDecodeError as error:
            yield f"{name} is not UTF-8: byte {error.start}"
            continue
        if name.endswith(".py"):
            yield from _unparsed(name, data)


def _unparsed(name: str, data: bytes) -> Iterator[str]:
    try:
        tree = ast.parse(data, filename=name)
        compile(tree, name, "exec", dont_inherit=True)
        ast.dump(tree)
    except SyntaxError as error:
        yield f"{name}:{error.lineno or 0}: {error.msg}"
    except ValueError as error:
        yield f"{name}: {error}"
    except (RecursionError, MemoryError):
        yield f"{name}: nested too deeply to be read"


def _entry(child: Harness) -> Iterator[str]:
    name = child.config.entry
    tree = ast.parse(child.files[name])
    found = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    solve = next((node for node in reversed(found) if node.name == "solve"), None)
    if solve is None:
        bound = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        bound |= {
            alias.asname or alias.name
            for node in ast.walk(tree)
            for alias in getattr(node, "names", ())
            if isinstance(alias, ast.alias)
        }
        if "solve" not in bound:
            yield f"{name} has no async def solve(problem, ctx)"
    elif isinstance(solve, ast.FunctionDef):
        yield f"{name}:{solve.lineno}: solve is not async: async def solve(problem, ctx)"
    else:
        given = solve.args
        places = len(given.posonlyargs) + len(given.args)
        needed = places - len(given.defaults)
        if (places < 2 and given.vararg is None) or needed > 2 or None in given.kw_defaults:
            yield f"{name}:{solve.lineno}: solve cannot be called as solve(problem, ctx)"


def _imports(child: Harness) -> Iterator[str]:
    own = {name.split("/")[0].removesuffix(".py") for name in child.files if name.endswith(".py")}
    known = {*sys.stdlib_module_names, *own, *child.config.modules, *CLIENTS, "sia_sdk"}
    for name, tree in imported(child).items():
        strange = {(line, module.split(".")[0]) for line, module in imports(tree)}
        for line, module in sorted(strange):
            if module not in known:
                declared = ", ".join(child.config.modules) or "none"
                yield f"{name}:{line}: imports {module}, which is not of the standard library, the harness or its \
modules ({declared})"


def _answers(child: Harness, parent: Harness | None, answers: Collection[str]) -> Iterator[str]:
    for name, data in sorted(child.files.items()):
        text = data.decode(errors="replace")
        before = parent.files.get(name, b"").decode(errors="replace") if parent is not None else ""
        if text != before and any(answer in text and answer not in before for answer in answers):
            yield f"{name} holds a text of a problem's private data"


def _no_op(child: Harness, parent: Harness) -> Iterator[str]:
    if child.files == parent.files:
        yield "no-op: the files are the same"
    elif normal_digest(child) == _digest(parent):
        yield "no-op: only comments, layout, or names and help in the manifest differ"


def _repeated(child: Harness, rejected: Sequence[Rejected]) -> Iterator[str]:
    for earlier in reversed(rejected):
        if _digest(earlier.harness) == normal_digest(child):
            yield f"the same harness as {earlier.name}, rejected there: {earlier.reason}"
            return


def _digest(harness: Harness) -> str | None:
    try:
        return normal_digest(harness)
    except UNREADABLE:  # The earlier rewrite was rejected for that reason.
        return None
