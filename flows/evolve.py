"""A whole run as a Prefect flow: generations until a stated rule ends it, then the sealed test."""

from prefect import flow, runtime, task
from prefect.artifacts import create_link_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE

from flows import phases, stopping
from flows.first import write_first
from flows.generation import generation
from flows.session import open_session
from flows.start import mlflow_address
from sia_core.report.links import mlflow_artifact, mlflow_run
from sia_core.report.page import FILE, report
from sia_core.report.table import lineage_rows


@task(name="sealed test", cache_policy=NO_CACHE)
def seal(run: str) -> None:
    """Score the final candidate and the seed on the sealed split."""
    with open_session(run) as session:
        phases.seal(session)


@task(name="first harness", cache_policy=NO_CACHE)
def first_harness(run: str) -> None:
    """Written by the Meta-Agent where the task brings none."""
    with open_session(run) as session:
        write_first(session)


@task(name="report", cache_policy=NO_CACHE)
def write_report(run: str) -> None:
    """The finished run as one page, beside its other artifacts."""
    with open_session(run) as session:
        try:
            session.run.put_bytes(FILE, report(session.run).encode())
        except Exception as error:  # noqa: BLE001  (a page that cannot be made is no reason to call the run failed)
            session.reporter.say(f"no report was made ({type(error).__name__}: {error}); try: sia report {run}")
            return
        link = mlflow_artifact(mlflow_address(), session.run.experiment_id, session.run.run_id, FILE)
        create_link_artifact(link, link_text=f"{run}: report", key="report", description="The run as one page")


@flow(name="evolve", flow_run_name="{run}", persist_result=False)
def evolve(run: str) -> None:
    """Run, or go on with, the run of that name until it is finished."""
    with open_session(run) as session:
        session.run.reopen()
        session.run.set_tags({"sia.prefect_run": str(runtime.flow_run.id)})
        link = mlflow_run(mlflow_address(), session.run.experiment_id, session.run.run_id)
        create_link_artifact(link, link_text=f"{run} in MLflow", key="mlflow", description="The record of this run")
        if session.run.phase("start") is None:
            first_harness(run)
        stopping.run_generations(session, lambda index: generation(run, index))
        seal(run)
        create_table_artifact(lineage_rows(session.run.nodes()), key="lineage", description=f"{run}: lineage, scores")
        session.run.end("FINISHED")
        write_report(run)
