"""Compute digests of everything that decides a run's outcome: task, code, policy and configuration.

A run can be resumed only while its digests are unchanged. The code is every module of the packages that can change an
outcome, as a syntax tree without docstrings, comments and layout. The packages that show, record, schedule or check
runs do not count.
"""

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sia_core.agents.recorded import is_recorded, recorded_digests
from sia_core.domain.command import command
from sia_core.domain.config import RunConfig
from sia_core.domain.errors import RecordError
from sia_core.domain.hashing import digest_json, digest_path
from sia_core.domain.task import Task
from sia_core.policy.registry import policy_digest
from sia_core.record.arms import ArmsRecord
from sia_core.record.store import RunRecord
from sia_core.record.tags import Tag

FILE = "fingerprint.json"
_ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = ("agents", "domain", "engine", "importers", "loop", "policy", "search", "weights")
"""Packages of `sia_core` that can change an outcome. New modules in them are covered automatically."""
_SHOWN = ("sia_core/agents/prompts/*.md", "sia_core/engine/sdk/*.py")
"""Texts that agents read, including docstrings of the SDK: every byte counts."""
_NAMED = 5


def take(config: RunConfig, task: Task) -> dict[str, dict[str, Any]]:
    """Compute the digests: files of task and code, the policy, settings of the configuration."""
    return {
        "task": dict(task.file_digests()),
        "code": code_digests(),
        "policy": {config.policy: policy_digest(config.policy), **recorded_digests(config.agent, task)},
        "config": config.model_dump(mode="json"),
    }


def code_digests(root: Path = _ROOT) -> dict[str, str]:
    """Compute digests by path of the modules and prompts below `root` that decide a run's outcome."""
    modules = [path for package in _PACKAGES for path in (root / "sia_core" / package).rglob("*.py")]
    found = {path: digest_json(_written(ast.parse(path.read_bytes()))) for path in modules}
    found |= {path: digest_path(path) for pattern in _SHOWN for path in root.glob(pattern)}
    return {path.relative_to(root).as_posix(): digest for path, digest in sorted(found.items())}


def _written(node: object) -> object:
    """Write a syntax tree as JSON data. Empty fields are left out, because later versions of Python add some."""
    if isinstance(node, list):
        return [_written(one) for one in node if not _is_docstring(one)]
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = {name: value for name, value in ast.iter_fields(node) if value not in (None, [])}
    return {"": type(node).__name__, **{name: _written(value) for name, value in fields.items()}}


def _is_docstring(node: object) -> bool:
    """Return True for a text that stands alone: a docstring, or the text below a field."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def tags(taken: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return the run's tags, one digest for each part; the file `FILE` holds the details."""
    return {f"{Tag.FINGERPRINT}.{name}": digest_json(part) for name, part in taken.items()}


def changes(run: RunRecord, task: Task) -> list[str]:
    """List what has changed since the run began, one line a part, with files and settings; empty if nothing has."""
    recorded, now = run.tags, take(run.started_with, task)
    if f"{Tag.FINGERPRINT}.{next(iter(now))}" not in recorded:  # The run is older than fingerprints.
        changed = recorded[Tag.TASK_DIGEST] != task.digest
        return [f"task {task.name} has changed since the run began"] if changed else []
    differ = [name for name, digest in tags(now).items() if recorded.get(name) != digest]
    before: dict[str, dict[str, Any]] = (run.get_json(FILE) or {}) if differ else {}
    return [_say(name.rpartition(".")[2], task, before, now) for name in differ]


def check_same_task(run: RunRecord, task: Task) -> None:
    """Check that the run's task is unchanged; SIA's own code may have changed.

    Raises:
        RecordError: the task has changed.
    """
    if run.tags[Tag.TASK_DIGEST] != task.digest:
        what = _say("task", task, run.get_json(FILE) or {}, {"task": dict(task.file_digests())})
        fork = f"sia retry {run.name} --generation N --fork"
        hint = f"restore the files of {task.path}, or continue in a child run: {fork}"
        raise RecordError(what, where=run.name, hint=hint)


def check_unchanged(run: RunRecord, task: Task) -> None:
    """Check that nothing has changed since the run began.

    Raises:
        RecordError: something has changed; the message says what.
    """
    found = changes(run, task)
    if found:
        raise RecordError(
            "; ".join(found),
            where=run.name,
            hint=f"restore it, or continue in a child run: sia retry {run.name} --generation N --fork",
        )


def check_alike(comparison: ArmsRecord, task: Task) -> None:
    """Check that nothing has changed since the runs of a comparison began: only their arms may differ.

    Raises:
        RecordError: something has changed since a run of the comparison began.
    """
    for run in comparison.members().values():
        if found := changes(run, task):
            hint = f"restore it to resume, or start a new comparison: {command('sia', 'arms', task.where)}"
            raise RecordError("; ".join(found), where=f"{comparison.name}, run {run.name}", hint=hint)


def _say(part: str, task: Task, before: Mapping[str, Mapping[str, Any]], now: Mapping[str, Mapping[str, Any]]) -> str:
    old, new = before.get(part, {}), now[part]
    names = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
    listed = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
    what = {"task": f"task {task.name}", "code": "SIA's code", "policy": "policy", "config": "configuration"}[part]
    if names and all(map(is_recorded, names)):
        what = "the file of recorded decisions"
    return f"{what} has changed since the run began: {listed or 'its record'}"
