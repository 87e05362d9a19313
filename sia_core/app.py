"""Start, resume, rerun and compare: the steps that the command line, the Python API and deployments share.

Each function checks what can be wrong before anything is spent, and returns a record. The flows in `flows/` see the
record through; nothing here imports Prefect.
"""

from collections.abc import Callable, Mapping
from typing import Any

from sia_core.agents.prices import check_priced
from sia_core.domain.config import RunConfig
from sia_core.domain.errors import RecordError
from sia_core.domain.task import Task
from sia_core.host.progress import Reporter
from sia_core.loop.create_run import check_sandbox, open_run, prepare, record
from sia_core.loop.fingerprint import check_alike
from sia_core.loop.rerun import extend, rerun
from sia_core.record.arms import ArmsRecord
from sia_core.record.lease import hold, refuse_held
from sia_core.record.store import RunRecord
from sia_core.search.arms import ArmsPlan

__all__ = ["compare", "rerun", "resume", "resume_comparison", "start"]

Tags = Mapping[str, str]


def start(
    config: RunConfig,
    reporter: Reporter,
    *,
    meanwhile: Callable[[], object] = lambda: None,
    member: Tags | None = None,
    origin: Tags | None = None,
) -> RunRecord:
    """Create a run.

    Args:
        config: of `build_config`.
        reporter: hears of downloads.
        meanwhile: starts what takes long and is needed later, such as a server.
        member: tags of a run that belongs to a comparison.
        origin: tags that tell what asked for it.

    Raises:
        SiaError: task, harness, policy, agent or sandbox cannot be used.
    """
    sandbox = check_sandbox(config)
    meanwhile()
    task, harness = prepare(config, reporter)
    return open_run(config, task, harness, sandbox, member, origin)


def resume(name: str, reporter: Reporter, *, generations: int | None = None, changes: Mapping[str, Any]) -> RunRecord:
    """Open an interrupted run to go on with it.

    Args:
        name: of the run, or how that begins.
        reporter: hears of downloads and of waiting.
        generations: that it is to have in all; a finished run is extended.
        changes: settings that `sia resume` may change, by the names of `RunConfig`'s fields.

    Raises:
        RecordError: unknown, finished, held by another process, or changed.
        UsageError: it has as many generations, or more.
    """
    run = record().open(name)
    if run.status == "FINISHED" and (generations is None or generations <= run.config.generations):
        more = f"give it more: sia resume {run.name} --generations {run.config.generations + 1}"
        raise RecordError("is finished", where=run.name, hint=f"see it: sia status {run.name}; {more}")
    refuse_held(run)
    if generations is not None:
        extend(run, generations)
    if changes:
        changed = run.config.model_copy(update=changes)
        check_priced(changed.policy, changed.budget)
        with hold(run, reporter.say):
            run.change(changes)
    return run


def compare(
    plan: ArmsPlan, reporter: Reporter, *, meanwhile: Callable[[], object] = lambda: None, origin: Tags | None = None
) -> ArmsRecord:
    """Create a comparison of arms. Arguments and errors as `start`."""
    check_sandbox(plan.config)
    meanwhile()
    task, _ = prepare(plan.config, reporter)
    return ArmsRecord.create(record(), task.name, plan.about, plan.model_dump(mode="json"), origin)


def resume_comparison(name: str, seeds: int | None = None) -> ArmsRecord:
    """Open a comparison to go on with it, over more seeds where they are given.

    Raises:
        RecordError: unknown, held by another process, or changed.
        UsageError: it has more seeds.
    """
    comparison = ArmsRecord.open(record(), name)
    refuse_held(comparison)
    if seeds is not None:
        plan = ArmsPlan.model_validate(comparison.plan).with_seeds(seeds)
        check_alike(comparison, Task.load(plan.config.task))  # Before the plan is changed: it cannot be made smaller.
        comparison.set_plan(plan.about, plan.model_dump(mode="json"))
    return comparison
