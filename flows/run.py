"""A whole run as a Prefect flow: generations until a stated rule ends it, then the sealed test.

What is finished is the record's business, not Prefect's: a flow run that is retried, in whatever process, goes
through the record and does what is missing.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from prefect import flow, runtime, tags, task
from prefect.artifacts import create_link_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.exceptions import MissingResult

from flows import crashed_runs
from flows.generation import generation
from flows.progress import artifact_key, outage_explained, show_if_reachable, shown
from sia_core.agents.recording import DECISIONS, write_recording
from sia_core.domain.errors import HeldError
from sia_core.export.decisions import recording_of
from sia_core.host.signals import listening
from sia_core.loop import sealed_test, stopping
from sia_core.loop.create_run import complete_opening, mlflow_address
from sia_core.loop.first_harness import write_first
from sia_core.loop.session import Session, open_session
from sia_core.record.arms import ArmsRecord
from sia_core.record.lease import LEAVE_S
from sia_core.record.patience import in_haste
from sia_core.record.phases import AnalyzeDone, ImproveDone, StartDone
from sia_core.record.store import RunRecord
from sia_core.record.tags import Tag
from sia_core.report.links import mlflow_artifact, mlflow_comparison, mlflow_run
from sia_core.report.markdown import cell
from sia_core.report.page import FILE, report
from sia_core.report.table import lineage_rows

_COMPARED = 6
"""Runs that MLflow's charts still tell apart."""


@task(name="sealed test", cache_policy=NO_CACHE)
def seal(run: str) -> None:
    """Score the final candidate and the seed on the sealed split."""
    with open_session(run) as session:
        sealed_test.seal(session)


@task(name="first harness", cache_policy=NO_CACHE)
def first_harness(run: str) -> None:
    """Let the Meta-Agent write the first harness where the task brings none."""
    with open_session(run) as session:
        write_first(session)


@task(name="report", cache_policy=NO_CACHE)
def write_report(run: str) -> None:
    """The finished run as one page; one that cannot be made is no reason to call the run failed."""
    with open_session(run) as session:
        try:
            keep_report(session.run)
        except Exception as error:  # noqa: BLE001  (whatever a page, the store or Prefect may raise)
            session.reporter.say(f"no report was kept ({type(error).__name__}: {error}); make one: sia report {run}")


def keep_report(run: RunRecord) -> None:
    """Put the run's page beside its other artifacts, in the place of an earlier one, and show a link to it in Prefect.

    Raises:
        RecordError: as `report`.
    """
    run.put_bytes(FILE, report(run).encode())
    link = mlflow_artifact(mlflow_address(), run.experiment_id, run.run_id, FILE)
    create_link_artifact(
        link, link_text=f"{run.name}: report", key=artifact_key(run.name, "report"), description="The run as one page"
    )


def keep_decisions(session: Session) -> None:
    """Put all decisions of the finished run beside its other artifacts, as one file for `--agent recorded:FILE`."""
    try:
        session.run.put_bytes(DECISIONS, write_recording(recording_of(session.run, session.task)))
    except ValueError as error:  # A decision that the format does not take; the run itself is sound.
        session.reporter.say(f"no {DECISIONS} was kept: {error}")


@flow(name="evolve", flow_run_name="{run}", persist_result=False)
def evolve(run: str) -> None:
    """Run, or go on with, the run of that name until it is finished."""
    see_through(run)


def evolve_here(run: str) -> None:
    """Run `evolve` with the tag that the watch over dead runs looks for; deployments set the tag themselves."""
    with tags("sia"), outage_explained():
        evolve(run)


def see_through(run: str) -> None:
    """Run, or go on with, a run until it is finished, within a flow; every flow that runs a run calls this function."""
    crashed_runs.mark()
    crashed_runs.reap()
    with listening(), shown(run), open_session(run) as session:
        session.run.reopen()
        session.run.set_tags({Tag.PREFECT_RUN: str(runtime.flow_run.id)})
        link = mlflow_run(mlflow_address(), session.run.experiment_id, session.run.run_id)
        key, about = artifact_key(run, "mlflow"), "The record of this run"
        show_if_reachable(lambda: create_link_artifact(link, f"{run} in MLflow", key, about))
        complete_opening(session.run, session.task)
        if session.run.phase(StartDone) is None:
            first_harness(run)
        stopping.run_generations(session, lambda index: _generation(session, index))
        seal(run)
        _show_lineage(session)
        _link_comparison(session.run)
        keep_decisions(session)
        session.run.end("FINISHED")
        write_report(run)


@contextmanager
def closing(run: RunRecord | ArmsRecord) -> Iterator[None]:
    """Close the run's record if what is done within fails or is cut short; one taken over is another's to close."""
    try:
        yield
    except HeldError:
        raise
    except BaseException as error:
        with suppress(Exception), in_haste(LEAVE_S):  # The store may be what failed.
            run.end("FAILED" if isinstance(error, Exception) else "KILLED")
        raise


def _generation(session: Session, index: int) -> bool:
    """Make the generation that is not yet made; True if the Feedback-Agent wanted to stop."""
    record, name = session.run.generation(index), session.run.name
    if record.phase(ImproveDone) is None:
        with suppress(MissingResult):
            generation(name, index)
        if record.phase(ImproveDone) is None:
            # Prefect holds the sub-flow to be done in an earlier sitting; the record has forgotten it since.
            generation.fn(name, index)
        _show_lineage(session)
    analysis = record.phase(AnalyzeDone)
    assert analysis is not None
    return analysis.decisions[0].lever == "stop"


def _link_comparison(run: RunRecord) -> None:
    """The run beside the newest others of its task."""
    query = f"tags.`{Tag.KIND}` = 'evolution' and tags.`{Tag.TASK}` = '{run.tags[Tag.TASK]}'"
    others = [found.info.run_id for found in run.record.search(query) if found.info.run_id != run.run_id]
    if others:
        runs = [run.run_id, *others[: _COMPARED - 1]]
        link = mlflow_comparison(mlflow_address(), [run.experiment_id], runs)
        text, key = f"{run.name} beside {len(runs) - 1} others in MLflow", artifact_key(run.name, "comparison")
        about = "Parameters, metrics and charts of several runs"
        show_if_reachable(lambda: create_link_artifact(link, text, key, about))


def _show_lineage(session: Session) -> None:
    name = session.run.name
    # A lone dash would be a list in Prefect's tables, which hold markdown.
    rows = [
        {column: "" if text == "-" else cell(text) for column, text in row.items()}
        for row in lineage_rows(session.run.nodes())
    ]
    text = f"{name}: lineage, scores"
    show_if_reachable(lambda: create_table_artifact(rows, key=artifact_key(name, "lineage"), description=text))
