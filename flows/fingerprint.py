"""What decides a run's outcome, as digests: task, code, policy and configuration. A run goes on only with its own.

Code is every module that runs between a seed and a decision; how runs are shown, recorded, scheduled or checked is not.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sia_core.agents.recorded import is_recorded, recorded_digests
from sia_core.config import RunConfig
from sia_core.errors import RecordError
from sia_core.hashing import digest_json, digest_path
from sia_core.policy.registry import policy_digest
from sia_core.record.arms import ArmsRecord
from sia_core.record.store import RunRecord
from sia_core.task import Task

FILE = "fingerprint.json"
_ROOT = Path(__file__).resolve().parent.parent
_CODE = (
    *("sia_core/*.py", "sia_core/agents/**/*.py", "sia_core/engine/**/*.py", "sia_core/foreign/**/*.py"),
    *("sia_core/policy/**/*.py", "sia_core/search/**/*.py", "sia_core/weights/**/*.py"),
    *(
        "flows/phases*.py",
        "flows/stopping.py",
        "flows/gate.py",
        "flows/levers.py",
        "flows/ladder.py",
        "flows/rollouts.py",
    ),
    *("flows/anchors.py", "flows/first.py", "flows/source.py", "sia_core/agents/prompts/*.md"),
    *("flows/allowance.py", "flows/commanding.py", "flows/deciding.py", "flows/workbench.py"),
)
_APART = ("sia_core/services.py", "sia_core/process.py", "sia_core/progress.py", "sia_core/errors.py")
_NAMED = 5


def take(config: RunConfig, task: Task) -> dict[str, dict[str, Any]]:
    """Digests by name: files of task and code, the policy, settings of the configuration."""
    return {
        "task": dict(task.file_digests()),
        "code": code_digests(),
        "policy": {config.policy: policy_digest(config.policy), **recorded_digests(config.agent, task)},
        "config": config.model_dump(mode="json"),
    }


def code_digests() -> dict[str, str]:
    """Digest by path of the modules that decide a run's outcome."""
    paths = {path.relative_to(_ROOT).as_posix(): path for pattern in _CODE for path in _ROOT.glob(pattern)}
    return {name: digest_path(path) for name, path in sorted(paths.items()) if name not in _APART}


def tags(taken: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Of the run, by which a change is seen; the file names it."""
    return {f"sia.fingerprint.{name}": digest_json(part) for name, part in taken.items()}


def changes(run: RunRecord, task: Task) -> list[str]:
    """What is not as it was when the run began, a line each, naming files and settings; empty when all is."""
    recorded, now = run.tags, take(run.started_with, task)
    if f"sia.fingerprint.{next(iter(now))}" not in recorded:  # Begun before there were fingerprints.
        changed = recorded["sia.task_digest"] != task.digest
        return [f"task {task.name} has changed since the run began"] if changed else []
    differ = [name for name, digest in tags(now).items() if recorded.get(name) != digest]
    before: dict[str, dict[str, Any]] = (run.get_json(FILE) or {}) if differ else {}
    return [_say(name.rpartition(".")[2], task, before, now) for name in differ]


def check_same_task(run: RunRecord, task: Task) -> None:
    """What a run found is said of the task it found it on. SIA's own code may be another since.

    Raises:
        RecordError: the task has changed.
    """
    if run.tags["sia.task_digest"] != task.digest:
        what = f"task {task.name} has changed since the run"
        raise RecordError(what, where=run.name, hint=f"put the files of {task.path} back as they were")


def check_unchanged(run: RunRecord, task: Task) -> None:
    """A run goes on only with what it began with.

    Raises:
        RecordError: something has changed; it says what.
    """
    found = changes(run, task)
    if found:
        raise RecordError(
            "; ".join(found),
            where=run.name,
            hint=f"put it back; or go on in a child run, from generation N: sia retry {run.name} --generation N --fork",
        )


def check_alike(comparison: ArmsRecord, task: Task) -> None:
    """Arms that differ in more than how they spend say nothing of it.

    Raises:
        RecordError: something has changed since a run of the comparison began.
    """
    for run in comparison.members().values():
        if found := changes(run, task):
            hint = f"put it back to go on; or compare anew: sia arms {task.where}"
            raise RecordError("; ".join(found), where=f"{comparison.name}, run {run.name}", hint=hint)


def _say(part: str, task: Task, before: Mapping[str, Mapping[str, Any]], now: Mapping[str, Mapping[str, Any]]) -> str:
    old, new = before.get(part, {}), now[part]
    names = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
    listed = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
    what = {"task": f"task {task.name}", "code": "SIA's code", "policy": "policy", "config": "configuration"}[part]
    if names and all(map(is_recorded, names)):
        what = "the file of recorded decisions"
    return f"{what} has changed since the run began: {listed or 'its record'}"
