"""Human approval before a lever is pulled: the flow pauses for an answer from the Prefect UI or the terminal."""

from collections.abc import Sequence

from prefect.artifacts import create_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput

from sia_core.domain.errors import RecordError
from sia_core.domain.lineage import Decision
from sia_core.domain.patch import unified_diff
from sia_core.loop.harness_lever import rewrite
from sia_core.loop.session import Session
from sia_core.record.phases import ApprovalDone
from sia_core.report.markdown import proposal_markdown

WAIT_S = 7 * 24 * 3600
"""Seconds for which a run waits; then the run fails, and can be resumed to ask again."""


class Approval(RunInput):
    """Answer that the Prefect UI asks for."""

    approve: bool = True
    note: str = ""


def ask(session: Session, index: int, decisions: Sequence[Decision]) -> None:
    """Wait for your approval of a generation's decisions, which is asked once and kept in the record."""
    generation = session.run.generation(index)
    idle = all(decision.lever in ("none", "stop") for decision in decisions)
    if not session.config.approve or idle or generation.phase(ApprovalDone) is not None:
        return
    shown = "\n\n".join(proposal_markdown(decision, _diff(session, decision)) for decision in decisions)
    levers = ", ".join(decision.lever for decision in decisions)
    create_markdown_artifact(shown, key="proposal", description=f"{session.run.name} generation {index}")
    session.reporter.say(
        f"generation {index}: {levers} is to be pulled. Answer in the Prefect UI, or: "
        f"sia approve {session.run.name} (--reject)"
    )
    answer = pause_flow_run(wait_for_input=Approval, timeout=WAIT_S, poll_interval=2)
    generation.complete(ApprovalDone(approved=answer.approve, note=answer.note))


def _diff(session: Session, decision: Decision) -> str:
    if decision.lever not in ("harness", "both"):
        return ""
    parent = session.run.nodes()[decision.parent]
    before = session.run.harness(parent.candidate.harness).files
    return unified_diff(before, rewrite(session, decision, parent).files)


def answer(run: str, approval: Approval) -> str:
    """Answer the waiting flow of a run, and return the flow's name.

    Raises:
        RecordError: no flow waits.
    """
    with get_client(sync_client=True) as client:
        paused = FlowRunFilter.model_validate(
            {"name": {"like_": f"{run}/"}, "state": {"type": {"any_": [StateType.PAUSED]}}}
        )
        # The newest: a flow of an interrupted process waits for ever.
        waiting = client.read_flow_runs(flow_run_filter=paused, sort=FlowRunSort.START_TIME_DESC)
        if not waiting:
            raise RecordError("is not waiting for approval", where=run, hint=f"see: sia status {run}")
        client.resume_flow_run(waiting[0].id, run_input=approval.model_dump(mode="json"))
        return waiting[0].name
