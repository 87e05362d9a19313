"""End a run and record why: all generations done, a plateau, the budget, or the agent's decision."""

from collections.abc import Callable, Sequence

from sia_core.domain.json_data import write
from sia_core.domain.lineage import Node
from sia_core.domain.plan import plan_rollouts
from sia_core.host.signals import asked_to_end
from sia_core.loop.session import Session
from sia_core.loop.splits import sizes_of
from sia_core.record.phases import StopDone
from sia_core.record.tags import Tag
from sia_core.search.plateau import Plateau, find_plateau, tired


def run_generations(session: Session, generation: Callable[[int], bool]) -> None:
    """Run generations until a rule ends the run, and record the rule and its numbers.

    Args:
        session: session of the run.
        generation: runs the generation of an index; True if the Feedback-Agent decided to stop.
    """
    config = session.config
    for index in range(1, config.generations + 1):
        if asked_to_end():
            raise KeyboardInterrupt  # The original interrupt was lost.
        plateau = look_for_plateau(session, index)
        if not config.levers and session.run.nodes()[-1].lever == "none":
            record_stop(session, "generations", "without a lever one execute phase says everything", plateau)
            return
        if plateau.reached and config.until_plateau:
            record_stop(session, "plateau", str(plateau), plateau)
            return
        if (lack := unaffordable(session, index)) is not None:
            record_stop(session, "budget", lack, plateau)
            return
        if generation(index):
            decision = session.run.nodes()[-1].decision
            record_stop(session, "agent", decision.reason if decision else "", plateau)
            return
    plateau = look_for_plateau(session, config.generations + 1)
    record_stop(session, "generations", f"all {config.generations} generations are done", plateau)


def record_stop(session: Session, rule: str, reason: str, plateau: Plateau) -> None:
    """Record the rule that ended the run: `plateau`, `budget`, `agent` or `generations`."""
    if session.run.phase(StopDone) is None:
        tags = {Tag.STOPPED: rule, Tag.STOPPED_BECAUSE: reason}
        session.run.complete(StopDone(rule=rule, reason=reason, plateau=write(plateau)), tags)
        # The agent's reason stands in its decision and in the table at the end; it may be long.
        session.reporter.say(f"the run ends ({rule}): {'it decided to stop' if rule == 'agent' else reason}")


def look_for_plateau(session: Session, index: int) -> Plateau:
    """Look for a plateau before a generation, and log its numbers even if it does not end the run."""
    config, nodes = session.config, session.run.nodes()
    found = find_plateau(
        nodes, config.levers, share=config.plateau, confidence=config.confidence, floor=_floor(session)
    )
    numbers = {"plateau.tries": found.tries, "plateau.mean": found.mean, "plateau.threshold": found.threshold}
    if found.tries > 1:
        numbers["plateau.upper"] = found.upper
    session.run.log_metrics(numbers, index)
    return found


def unaffordable(session: Session, index: int) -> str | None:
    """Return why the budget does not cover this generation and the sealed test, else None; a begun one is covered."""
    if session.run.generation_begun(index):
        return None
    plan = plan_rollouts(session.config, session.task.config.update, sizes_of(session.task))
    lack = session.ledger.lacks(plan.generation + plan.sealed)
    if lack is None:
        return None
    return f"no room for generation {index} and the sealed test ({lack})"


def tired_lever(session: Session, nodes: Sequence[Node], lever: str) -> bool:
    """Return True if the lever has reached its plateau."""
    config = session.config
    return tired(nodes, lever, share=config.plateau, confidence=config.confidence, floor=_floor(session))


def _floor(session: Session) -> float:
    return session.task.config.score_range[0]
