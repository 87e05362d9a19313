"""Run a whole run as a Prefect flow: generations until a stated rule ends it, then the sealed test.

The record, not Prefect, says what is finished: a retried flow run, in any process, reads the record and does what is
missing.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from prefect import flow, runtime, tags, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.exceptions import MissingResult

from flows import crashed_runs
from flows.generation import generation
from flows.links import link_to_mlflow
from flows.progress import artifact_key, outage_explained, show_if_reachable, shown
from sia_core.agents.recording import DECISIONS, write_recording
from sia_core.domain.errors import HeldError
from sia_core.export.decisions import recording_of
from sia_core.host.signals import listening
from sia_core.loop import sealed_test, stopping
from sia_core.loop.create_run import complete_opening
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
"""Most runs that stay distinguishable in MLflow's charts."""


@task(name="sealed test", cache_policy=NO_CACHE)
def seal(run: str) -> None:
    """Score the final candidate and the seed on the sealed split."""
    with open_session(run) as session:
        sealed_test.seal(session)


@task(name="first harness", cache_policy=NO_CACHE)
def first_harness(run: str) -> None:
    """Let the Meta-Agent write the first harness if the task has none."""
    with open_session(run) as session:
        write_first(session)


@task(name="report", cache_policy=NO_CACHE)
def write_report(run: str) -> None:
    """Write the report of the finished run; an error does not make the run fail."""
    with open_session(run) as session:
        try:
            keep_report(session.run)
        except Exception as error:  # noqa: BLE001  (page, store and Prefect raise many kinds)
            session.reporter.say(f"no report was stored ({type(error).__name__}: {error}); write one: sia report {run}")


def keep_report(run: RunRecord) -> None:
    """Store the run's report as an artifact, replacing an earlier one, and link to it in Prefect.

    Raises:
        RecordError: see `report`.
    """
    run.put_bytes(FILE, report(run).encode())
    link_to_mlflow(
        lambda base: mlflow_artifact(base, run.experiment_id, run.run_id, FILE),
        text=f"{run.name}: report",
        key=artifact_key(run.name, "report"),
        about="The run as one page",
    )


def keep_decisions(session: Session) -> None:
    """Store all decisions of the finished run as an artifact, for `--agent recorded:FILE`."""
    try:
        session.run.put_bytes(DECISIONS, write_recording(recording_of(session.run, session.task)))
    except ValueError as error:  # The format does not fit a decision; the run itself is sound.
        session.reporter.say(f"no {DECISIONS} was stored: {error}")


@flow(name="evolve", flow_run_name="{run}", persist_result=False)
def evolve(run: str) -> None:
    """Start or resume a run, and finish it."""
    see_through(run)


def evolve_here(run: str) -> None:
    """Run `evolve` with the tag that the watch for crashed runs looks for, which deployments set themselves."""
    with tags("sia"), outage_explained():
        evolve(run)


def see_through(run: str) -> None:
    """Start or resume a run within a flow, and finish it; every flow for a run calls this function."""
    crashed_runs.mark()
    crashed_runs.reap()
    with listening(), shown(run), open_session(run) as session:
        session.run.reopen()
        session.run.set_tags({Tag.PREFECT_RUN: str(runtime.flow_run.id)})
        _link_record(session.run)
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
    """Close the record if the work within fails or is interrupted, unless another process took the run over."""
    try:
        yield
    except HeldError:
        raise
    except BaseException as error:
        with suppress(Exception), in_haste(LEAVE_S):  # The store may be what failed.
            run.end("FAILED" if isinstance(error, Exception) else "KILLED")
        raise


def _generation(session: Session, index: int) -> bool:
    """Run the generation unless it is done; return True if the Feedback-Agent decided to stop."""
    record, name = session.run.generation(index), session.run.name
    if record.phase(ImproveDone) is None:
        with suppress(MissingResult):
            generation(name, index)
        if record.phase(ImproveDone) is None:
            # Prefect counts the sub-flow as done in an earlier session; the record has since forgotten it.
            generation.fn(name, index)
        _show_lineage(session)
    analysis = record.phase(AnalyzeDone)
    assert analysis is not None
    return analysis.decisions[0].lever == "stop"


def _link_record(run: RunRecord) -> None:
    key, about = artifact_key(run.name, "mlflow"), "The record of this run"

    def page(base: str) -> str:
        return mlflow_run(base, run.experiment_id, run.run_id)

    show_if_reachable(lambda: link_to_mlflow(page, f"{run.name} in MLflow", key, about))


def _link_comparison(run: RunRecord) -> None:
    """Link to MLflow's comparison of the run with the newest others of its task."""
    query = f"tags.`{Tag.KIND}` = 'evolution' and tags.`{Tag.TASK}` = '{run.tags[Tag.TASK]}'"
    others = [found.info.run_id for found in run.record.search(query) if found.info.run_id != run.run_id]
    if others:
        runs = [run.run_id, *others[: _COMPARED - 1]]
        text, key = f"{run.name} beside {len(runs) - 1} others in MLflow", artifact_key(run.name, "comparison")
        about = "Parameters, metrics and charts of several runs"
        show_if_reachable(
            lambda: link_to_mlflow(lambda base: mlflow_comparison(base, [run.experiment_id], runs), text, key, about)
        )


def _show_lineage(session: Session) -> None:
    name = session.run.name
    # A single dash would be a list in Prefect's tables, which hold markdown.
    rows = [
        {column: "" if text == "-" else cell(text) for column, text in row.items()}
        for row in lineage_rows(session.run.nodes())
    ]
    text = f"{name}: lineage, scores"
    show_if_reachable(lambda: create_table_artifact(rows, key=artifact_key(name, "lineage"), description=text))
