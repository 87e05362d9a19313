"""Repeat generations of a run or add more, in the run itself or in a child run.

Forgotten generations stay in the record (`record.rewind`). Rollouts that are still valid stay in the run's journal by
their keys and cost nothing; with the same task, code, policy and seed, all of them are valid.
"""

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from sia_core.agents.recorded import recorded_tags
from sia_core.domain.errors import UsageError
from sia_core.domain.task import Task
from sia_core.host.home import home
from sia_core.loop import fingerprint
from sia_core.loop.configure import change_config
from sia_core.loop.create_run import record
from sia_core.record.lease import hold
from sia_core.record.phases import StopDone
from sia_core.record.rewind import forget, fork, is_whole, was_asked
from sia_core.record.store import RunRecord
from sia_core.record.tags import Tag

_KEPT = (*(Tag.TASK, Tag.POLICY, Tag.VERSION), *(Tag.SANDBOX_TIER, Tag.SANDBOX_MISSING, Tag.SANDBOX_PROBE))
"""Tags that a child run has of its parent."""


def rerun(
    name: str, first: int, *, forked: bool = False, changes: Mapping[str, str] | None = None, origin: str = ""
) -> RunRecord:
    """Prepare a run, or a child run, to continue from generation `first`, and return it.

    Args:
        name: name of a run.
        first: a generation of the run, which is repeated with all later ones, or the next one, which is added.
        forked: leave the run unchanged, and continue in a child run with the current task, code and policy.
        changes: changed settings of a child run, by name (`configure.change_config`).
        origin: id of the request; repeating a request has no effect.

    Raises:
        RecordError: the run is unknown, held by another process, or changed and not forked.
        UsageError: the generation cannot be made, or the settings cannot be changed.
    """
    run = record().open(name)
    task = Task.load(run.config.task)
    if forked:
        return _child(run, task, first, changes or {}, origin)
    if changes:
        raise UsageError("a run keeps its settings", where=run.name, hint="change them in a child run: --fork")
    with hold(run):
        fingerprint.check_unchanged(run, task)
        if not was_asked(run, origin):
            _check_number(run, first)
        forget(run, first, origin)
        if first > run.config.generations:
            run.extend(first)
        run.reopen()
    return record().open(run.name)


def extend(run: RunRecord, generations: int) -> None:
    """Raise the total number of a run's generations, and forget its conclusions.

    Raises:
        RecordError: another process holds the run, or it has changed.
        UsageError: the run already has as many generations.
    """
    if generations <= run.config.generations:
        what = f"already has {run.config.generations} generations"
        raise UsageError(what, where=run.name, hint="--generations is the total number")
    if not run.config.levers:
        what = "has no lever, so nothing would change in another generation"
        raise UsageError(what, where=run.name, hint=f"see it: sia status {run.name}; or start a run with levers")
    rerun(run.name, generations)


def _check_number(run: RunRecord, first: int) -> None:
    made = len(run.generations())
    if made < first <= run.config.generations:
        what = f"generation {first} is still to come: {made} of {run.config.generations} have begun"
        raise UsageError(what, where=run.name, hint=f"sia resume {run.name}")
    stop = run.phase(StopDone)
    if first > made and stop is not None and stop.rule == "agent":
        what = f"the agent ended the run in generation {made}: no further generation would start"
        raise UsageError(what, where=run.name, hint=f"ask again: sia retry {run.name} --generation {made}")


def _child(run: RunRecord, task: Task, first: int, changes: Mapping[str, str], origin: str) -> RunRecord:
    if origin:
        for found in run.record.search(f"tags.`{Tag.ORIGIN}` = '{origin}' and tags.`{Tag.KIND}` = 'evolution'"):
            child = RunRecord(run.record, found)
            if child.begun and is_whole(child):
                return child
    if first > len(run.generations()) + 1:
        what = f"has no generation {first - 1} to continue from"
        raise UsageError(what, where=run.name, hint=f"it has {len(run.generations())}: see sia status {run.name}")
    config = change_config(run.config, changes)
    taken = fingerprint.take(config, task)
    settings = [f"{name} = {value}" for name, value in changes.items()]
    kept = {key: value for key, value in run.tags.items() if key in _KEPT}
    tags = {
        **kept,
        **fingerprint.tags(taken),
        Tag.TASK_DIGEST: task.digest,
        Tag.POLICY_DIGEST: taken["policy"][config.policy],
        Tag.AGENT: config.agent,
        **recorded_tags(config.agent, task),
        Tag.LEVERS: ",".join(config.levers) or "none",
        Tag.CHANGED: "; ".join([*fingerprint.changes(run, task), *settings]),
        Tag.ORIGIN: origin,
        "mlflow.note.content": f"Forked from {run.name} at generation {first}. {task.config.title}.",
    }
    child = fork(run, first, config, tags)
    child.put_json(fingerprint.FILE, taken)
    if first > config.generations:
        child.extend(first)
    _take_rollouts(home() / "runs" / run.name, home() / "runs" / child.name)
    return child


def _take_rollouts(source: Path, target: Path) -> None:
    """Copy the parent's rollouts into the child's journal, without their cost."""
    if not (source / "journal.db").exists():
        return  # The parent was run on another machine.
    target.mkdir(parents=True, exist_ok=True)
    with (
        closing(sqlite3.connect(source / "journal.db")) as before,
        closing(sqlite3.connect(target / "journal.db")) as after,
    ):
        before.backup(after)
        after.execute("DELETE FROM spending")
        after.commit()
