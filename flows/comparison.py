"""Run a comparison as a Prefect flow: an `evolve` run for each arm and seed, then the table."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict

from prefect import flow, tags, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.exceptions import MissingResult

from flows import crashed_runs
from flows.links import link_to_mlflow
from flows.progress import artifact_key, outage_explained, show_if_reachable
from flows.run import closing, evolve, see_through
from sia_core import app
from sia_core.domain.lineage import Cost
from sia_core.domain.task import Task
from sia_core.loop import create_run, fingerprint
from sia_core.loop.session import reporter
from sia_core.record.arms import ArmsRecord
from sia_core.record.lease import hold
from sia_core.record.store import RunRecord
from sia_core.report.arms import arms_markdown
from sia_core.report.links import mlflow_comparison
from sia_core.search.arms import ArmsPlan, Comparison, compare, read_member


@flow(name="arms", flow_run_name="{name}", persist_result=False)
def arms(name: str) -> Comparison:
    """Run or resume a comparison, without repeating finished runs."""
    return go_through(name)


def arms_here(name: str) -> Comparison:
    """Run `arms` with the tag that the watch for crashed runs looks for, which deployments set themselves."""
    with tags("sia"), outage_explained():
        return arms(name)


def go_through(name: str) -> Comparison:
    """Run or resume a comparison within a flow; every flow for a comparison calls this function."""
    crashed_runs.mark()
    crashed_runs.reap()
    comparison = ArmsRecord.open(create_run.record(), name)
    with hold(comparison, reporter.get().say) as lease:
        comparison.reopen()
        plan = ArmsPlan.model_validate(comparison.plan)
        costs: dict[int, list[Cost]] = {}
        for seed, arm in plan.members:
            run = comparison.members().get((seed, arm.name))
            if run is None or run.status != "FINISHED":
                lease.check(surely=True)
                if run is None:
                    config = plan.member_config(seed, arm, costs.get(seed, []))
                    fingerprint.check_alike(comparison, Task.load(config.task))
                    run = app.start(config, reporter.get(), member=comparison.member_tags(seed, arm.name))
                reporter.get().say(f"seed {seed}, arm {arm.name}: run {run.name}")
                _play(run)
            costs.setdefault(seed, []).append(read_member(run).cost)
        return tabulate(name)


def _play(run: RunRecord) -> None:
    with closing(run):
        with suppress(MissingResult):
            evolve(run.name)
        if run.status != "FINISHED":
            # Prefect counts the sub-flow as done in an earlier session; the record does not.
            see_through(run.name)


@task(name="compare arms", cache_policy=NO_CACHE)
def tabulate(name: str) -> Comparison:
    """Compare the finished runs, and record the comparison."""
    comparison = ArmsRecord.open(create_run.record(), name)
    members: Mapping[tuple[int, str], RunRecord] = comparison.members()
    config = ArmsPlan.model_validate(comparison.plan).config
    found = compare([read_member(run) for run in members.values()], confidence=config.confidence, seed=config.seed)
    text = arms_markdown(found)
    comparison.put_json("comparison.json", asdict(found))
    comparison.put_bytes("comparison.md", text.encode())
    comparison.log_metrics({f"{row.arm}.score": row.score.mean for row in found.rows})
    comparison.log_metrics({f"{row.arm}.gain": row.gain.mean for row in found.rows if row.gain})
    comparison.end("FINISHED")
    runs = [run.run_id for run in members.values()]
    key, about = artifact_key(name, "comparison"), f"{name}: its runs side by side in MLflow"
    show_if_reachable(
        lambda: link_to_mlflow(lambda base: mlflow_comparison(base, comparison.experiment_id, runs), about, key, "")
    )
    show_if_reachable(lambda: create_markdown_artifact(text, key=artifact_key(name, "arms"), description=name))
    return found
