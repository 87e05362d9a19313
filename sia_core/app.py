"""Start, resume, rerun and compare: steps that the command line, the Python API and deployments share.

Each function checks for errors before anything is spent, and returns a record. The flows in `flows/` run it to its end;
nothing here imports Prefect.
"""

from collections.abc import Callable, Mapping
from typing import Any

from sia_core.agents.prices import check_priced
from sia_core.domain.config import RunConfig
from sia_core.domain.errors import RecordError
from sia_core.domain.task import Task
from sia_core.host.progress import Reporter
from sia_core.loop.connect import connect
from sia_core.loop.create_run import check_sandbox, namesake_lines, open_run, prepare, prepare_again, record
from sia_core.loop.fingerprint import check_alike
from sia_core.loop.rerun import extend, rerun
from sia_core.record.arms import ArmsRecord
from sia_core.record.lease import hold, refuse_held
from sia_core.record.store import RunRecord
from sia_core.search.arms import ArmsPlan

__all__ = ["compare", "prepare_comparison", "rerun", "resume", "resume_comparison", "start"]

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
        config: result of `build_config`.
        reporter: receives the progress of downloads.
        meanwhile: starts slow things that are needed later, such as a server.
        member: tags of a run in a comparison.
        origin: tags that say what requested the run.

    Raises:
        SiaError: task, harness, policy, agent or sandbox cannot be used, or a model's server refuses a short request.
    """
    sandbox = check_sandbox(config)
    meanwhile()
    task, harness = prepare(config, reporter)
    for line in namesake_lines(record(), task):
        reporter.say(line)
    contacts = connect(config, task, harness, reporter)
    return open_run(config, task, harness, sandbox, member, origin, contacts)


def resume(name: str, reporter: Reporter, *, generations: int | None = None, changes: Mapping[str, Any]) -> RunRecord:
    """Open an interrupted run to resume it.

    Args:
        name: name of the run, or its beginning.
        reporter: receives the progress of downloads and waits.
        generations: total number of generations; more extend a finished run.
        changes: settings that `sia resume` may change, by the names of `RunConfig`'s fields.

    Raises:
        RecordError: the run is unknown, finished, held by another process, or changed.
        UsageError: the run already has as many generations.
    """
    run = record().open(name)
    if run.status == "FINISHED" and (generations is None or generations <= run.config.generations):
        more = f"extend it: sia resume {run.name} --generations {run.config.generations + 1}"
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
    """Create a comparison; see `start` for arguments and errors."""
    check_sandbox(plan.config)
    meanwhile()
    task, _ = prepare(plan.config, reporter)
    return ArmsRecord.create(record(), task.name, plan.about, plan.model_dump(mode="json"), origin)


def prepare_comparison(comparison: ArmsRecord, reporter: Reporter) -> None:
    """Prepare to resume a comparison; see `prepare_again`."""
    config = ArmsPlan.model_validate(comparison.plan).config
    prepare_again(config, reporter, *comparison.members().values())


def resume_comparison(name: str, seeds: int | None = None) -> ArmsRecord:
    """Open a comparison to resume it, over more seeds if given.

    Raises:
        RecordError: the comparison is unknown, held by another process, or changed.
        UsageError: the comparison already has more seeds.
    """
    comparison = ArmsRecord.open(record(), name)
    refuse_held(comparison)
    if seeds is not None:
        plan = ArmsPlan.model_validate(comparison.plan).with_seeds(seeds)
        check_alike(comparison, Task.load(plan.config.task))  # Before the change, because a plan cannot shrink.
        comparison.set_plan(plan.about, plan.model_dump(mode="json"))
    return comparison
