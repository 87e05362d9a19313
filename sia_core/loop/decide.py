"""Make the decisions of a generation: describe the situation, ask the agent, and fall back to `rules`."""

from dataclasses import asdict, replace
from importlib.resources import files

from sia_core.agents.protocol import FeedbackAgent, NoDecisionError, Situation
from sia_core.agents.reference import reference
from sia_core.agents.rules import RulesAgent
from sia_core.agents.static import Allowed
from sia_core.domain.config import LADDER_ROLLOUTS, MAX_VALIDATIONS
from sia_core.domain.lineage import SEED_NODE, Cost, Decision, Evidence, Node, champion
from sia_core.domain.patch import EditLimits
from sia_core.loop.gate import gate_terms
from sia_core.loop.run_view import SessionSource
from sia_core.loop.session import Session
from sia_core.loop.stopping import tired_lever
from sia_core.record.generation import GenerationRecord
from sia_core.record.phases import ExecuteDone
from sia_core.report.decided import decision_line, stand_in_line
from sia_core.weights.preconditions import suggest
from sia_core.weights.proposal import SETTINGS

PULLS = ("harness", "weights", "both")


def baseline(executed: Node) -> Decision:
    """Return the decision of a run without levers."""
    return Decision("none", executed.index, "this run has no levers: it is the baseline that only samples", "none")


def decide(
    session: Session, generation: GenerationRecord, nodes: list[Node], evidence: Evidence
) -> tuple[list[Decision], Cost]:
    """Make one decision for each sibling, until the agent stops; return them and the cost of their trials.

    Only the first decision may be to stop.
    """
    situation = _situation(session, generation, nodes, evidence)
    decisions: list[Decision] = []
    cost = Cost()
    for _ in range(session.config.siblings):
        situation = replace(situation, siblings=tuple(decisions))
        source = SessionSource(session, generation.index, decisions)
        decision = _decide_one(session, situation, source)
        cost += source.workbench.finish()
        if decision.lever == "stop" and decisions:
            break
        _tell(session, generation.index, decision)
        decisions.append(decision)
        if decision.lever == "stop":
            break
    return decisions, cost


def _decide_one(session: Session, situation: Situation, source: SessionSource) -> Decision:
    """Return the agent's decision, or that of `rules` if the agent comes to none."""
    agent = session.agents.feedback
    try:
        decision = _ask(agent, situation, source)
        if decision.lever == "none":
            why = "; ".join(decision.refused)
            session.reporter.say(f"generation {situation.generation}: the recorded decision is not used: {why}")
        return decision
    except NoDecisionError as error:
        decision = _ask(RulesAgent(), replace(situation, refused=(f"{agent.spec}: {error}",)), source)
        return replace(decision, instead_of=agent.spec)


def _tell(session: Session, generation: int, decision: Decision) -> None:
    """Report the decision after a check that it contains none of the task's canaries."""
    session.task.canaries.check_data(asdict(decision), f"generation {generation}, decision")
    if decision.instead_of:
        session.reporter.say(stand_in_line(decision, generation))
    session.reporter.say(f"generation {generation}: {decision_line(decision)}")


def _situation(session: Session, generation: GenerationRecord, nodes: list[Node], evidence: Evidence) -> Situation:
    config, task = session.config, session.task
    gate = 2 * config.gate_problems * config.gate_rollouts
    trainable = session.engine.policy.trainable
    rollouts = generation.rollouts("train")
    anchors = 2 * task.config.update.anchors * config.gate_rollouts
    training = anchors + (task.config.update.rounds - 1) * config.problems * config.rollouts
    return Situation(
        evidence,
        nodes,
        session.run.harness(evidence.candidate.harness),
        config.levers,
        {"harness": gate + LADDER_ROLLOUTS, "weights": gate + training},
        generation=generation.index,
        parent=executed_node(generation, nodes).index,
        tired=tuple(lever for lever in config.levers if tired_lever(session, nodes, lever)),
        seed=config.seed,
        task=task.description,
        metric=task.config.metric,
        edit_limits=str(EditLimits(config.edit_scope, config.max_edit_lines)),
        problems=sorted({rollout.unit.problem for rollout in rollouts}),
        reference=_reference(session, nodes[SEED_NODE]),
        generations=config.generations,
        spending=_spending(session, generation),
        metrics=task.config.metrics,
        updates={name: f"{one.allowed}. {one.about}" for name, one in SETTINGS.items()} if trainable else {},
        suggested=": ".join(part for part in suggest(rollouts) if part) if trainable else "",
        gate=gate_terms(session, nodes, rollouts),
    )


def _reference(session: Session, seed: Node) -> str:
    first = session.run.harness(seed.candidate.harness).config
    sdk = (files("sia_core.engine") / "sdk" / "sia_sdk.py").read_text()
    return reference(sdk, session.task.config, Allowed.of(first, session.task.config.rewrite))


def _spending(session: Session, generation: GenerationRecord) -> str:
    """Return the spending when it was first needed: a resumed conversation must be identical, or it is paid again."""
    found = generation.get_json("agent/spending.json")
    if found is None:
        found = session.ledger.describe()
        generation.put_json("agent/spending.json", found)
    return str(found)


def _ask(agent: FeedbackAgent, situation: Situation, source: SessionSource) -> Decision:
    """Ask until a decision passes its preconditions and the first rungs, and return refusals with their reasons."""
    for _ in range(MAX_VALIDATIONS):
        decision = agent.decide(situation, source)
        if faults := source.objections(decision):
            levers = (decision.lever,) if decision.lever in PULLS else ()
            situation = replace(situation, refused_levers=(*situation.refused_levers, *levers))
        elif faults := source.validate(decision):
            situation = replace(situation, fallen=(*situation.fallen, decision))
        else:
            return decision
        situation = replace(situation, refused=(*situation.refused, f"{decision.lever}: {'; '.join(faults)}"))
    last = champion(list(situation.nodes)).index
    return Decision("stop", last, "no decision passed its preconditions", agent.spec, refused=situation.refused)


def executed_node(generation: GenerationRecord, nodes: list[Node]) -> Node:
    """Return the node that the generation executed."""
    phase = generation.phase(ExecuteDone)
    assert phase is not None
    return nodes[phase.node]
