"""Run one generation as a Prefect flow: execute, analyze, improve.

Prefect schedules and shows the phases. The record decides what is already done, so a retry of the flow repeats nothing
that was finished.
"""

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from flows import approval, crashed_runs
from flows.progress import Share, artifact_key, show_if_reachable, shown
from sia_core.domain.lineage import Decision, Node
from sia_core.domain.patch import unified_diff
from sia_core.loop.analyze import analyze as analyze_phase
from sia_core.loop.execute import execute as execute_phase
from sia_core.loop.improve import improve as improve_phase
from sia_core.loop.session import Session, open_session
from sia_core.report.markdown import decision_markdown

_PHASES = 3


@task(name="execute", task_run_name="execute {index}", cache_policy=NO_CACHE)
def execute(run: str, index: int) -> None:
    """Roll the current candidate out."""
    with open_session(run) as session:
        execute_phase(session, index)


@task(name="analyze", task_run_name="analyze {index}", cache_policy=NO_CACHE)
def analyze(run: str, index: int) -> list[Decision]:
    """Compute the evidence and make decisions."""
    with open_session(run) as session:
        return analyze_phase(session, index)


@task(name="improve", task_run_name="improve {index}", cache_policy=NO_CACHE)
def improve(run: str, index: int) -> list[Node]:
    """Pull levers, run the gate and extend the lineage."""
    with open_session(run) as session:
        return improve_phase(session, index)


@flow(name="generation", flow_run_name="{run}/{index}", persist_result=False)
def generation(run: str, index: int) -> bool:
    """Run one generation; return True if the Feedback-Agent decided to stop."""
    crashed_runs.mark()
    with shown(run), open_session(run) as session:
        about = f"{run} generation {index}"
        progress = Share(about)
        execute(run, index)
        progress.reach(100 / _PHASES)
        decisions = analyze(run, index)
        progress.reach(200 / _PHASES)
        approval.ask(session, index, decisions)
        crashed_runs.mark()  # A pause counts as another try.
        nodes = improve(run, index)
        progress.reach(100.0)
        shown_nodes = "\n\n".join(decision_markdown(node, _diff(session, node)) for node in nodes)
        key = artifact_key(run, "decision")
        show_if_reachable(lambda: create_markdown_artifact(shown_nodes, key=key, description=about))
        return decisions[0].lever == "stop"


def _diff(session: Session, node: Node) -> str:
    """Return the diff from the parent's harness to the child's; empty if both are the same."""
    before = session.run.nodes()[node.parent or 0].candidate.harness
    if before == node.candidate.harness:
        return ""
    return unified_diff(session.run.harness(before).files, session.run.harness(node.candidate.harness).files)
