"""Flows as deployments start them, from a form, in a fresh process of a worker.

Retrying a flow run must find what its first try made: each record carries the id of the flow run it came from.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from prefect import flow, runtime
from prefect.client.orchestration import get_client

from flows import arms, reaper, start
from flows.evolve import closing, keep_report, see_through
from flows.forms import ArmsForm, EvolveForm, GenerationForm, ReportForm
from flows.live import shown
from flows.redo import ORIGIN, redo
from flows.session import reporter
from sia_core.record.arms import ArmsRecord
from sia_core.record.store import RunRecord
from sia_core.search.arms import ArmsPlan


@flow(name="evolve", flow_run_name="{settings.task}", persist_result=False)
def evolve_task(settings: EvolveForm) -> None:
    """Start a run of a task and see it through; a retry goes on with the same run."""
    with _prepared(settings.task):
        run = _begun(settings)
        _call(run.name)
        with closing(run):
            see_through(run.name)


@flow(name="generation", flow_run_name="{settings.run}/{settings.generation}", persist_result=False)
def redo_generation(settings: GenerationForm) -> None:
    """Make a generation of a run again, or more of them, and see the run through."""
    with _prepared(settings.run):
        run = redo(settings.run, settings.generation, forked=settings.fork, origin=_origin())
        start.prepare(run.config, reporter.get())
        _call(f"{run.name} from {settings.generation}")
        with closing(run):
            see_through(run.name)


@flow(name="arms", flow_run_name="{settings.task}", persist_result=False)
def compare_arms(settings: ArmsForm) -> None:
    """Compare arms on a task; a retry goes on with the same comparison."""
    with _prepared(settings.task):
        record, origin = start.record(), _origin()
        found = record.search(f"tags.`{ORIGIN}` = '{origin}' and tags.`sia.kind` = 'arms'")
        if found:
            comparison = ArmsRecord(record, found[0])
            start.prepare(ArmsPlan.model_validate(comparison.plan).config, reporter.get())
        else:
            comparison = start.open_arms(settings.plan(), {ORIGIN: origin})
        _call(comparison.name)
        with closing(comparison):
            arms.go_through(comparison.name)


@flow(name="report", flow_run_name="{settings.run}", persist_result=False)
def report_run(settings: ReportForm) -> None:
    """Make the report of a run anew, as far as the run has come, and leave a link to it."""
    with _prepared(settings.run):
        run = start.record().open(settings.run)
        _call(run.name)
        keep_report(run)


def _begun(settings: EvolveForm) -> RunRecord:
    """The run of this flow run: as an earlier try began it, or a new one."""
    record, origin = start.record(), _origin()
    for found in record.search(f"tags.`{ORIGIN}` = '{origin}' and tags.`sia.kind` = 'evolution'"):
        run = RunRecord(record, found)
        if run.begun:
            start.prepare(run.config, reporter.get())
            return run
    config = settings.config()
    sandbox = start.check_sandbox(config)
    task, harness = start.prepare(config, reporter.get())
    return start.open_run(config, task, harness, sandbox, origin={ORIGIN: origin})


@contextmanager
def _prepared(about: str) -> Iterator[None]:
    """What the command line does before any flow."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    reaper.mark()
    reaper.reap()
    with shown(about):
        yield


def _origin() -> str:
    return str(runtime.flow_run.id)


def _call(name: str) -> None:
    """Name the flow run after the run it turned out to be."""
    with get_client(sync_client=True) as client:
        client.set_flow_run_name(runtime.flow_run.id, name)
