"""The phases of a generation: execute, analyze, improve; and the sealed test at the end.

Each phase first asks the record whether it is complete and then does nothing; otherwise it
does its work from what earlier phases recorded, and marks itself complete last. Killing the
process anywhere loses at most the unit in flight.
"""

from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.resources import files

from flows.approve import objection
from flows.gate import play_gate
from flows.levers import Pulled, fresh_rollouts, pull_harness, pull_weights, refuse_batch
from flows.rollouts import cost_of, pick_problems, plan_groups, plan_units, roll_out, training_rollouts
from flows.session import Session
from flows.source import SessionSource
from flows.stopping import tired_lever
from sia_core.agents.evidence import gather, scores_by_problem
from sia_core.agents.protocol import FeedbackAgent, NoDecisionError, Situation
from sia_core.agents.reference import reference
from sia_core.agents.rules import RulesAgent
from sia_core.agents.static import Allowed
from sia_core.config import LADDER_ROLLOUTS
from sia_core.generation import SEED_NODE, Cost, Decision, Evidence, Node, champion
from sia_core.hashing import derive_seed
from sia_core.patch import EditLimits
from sia_core.plan import SEALED
from sia_core.record.arms import SCORES
from sia_core.record.generation import GenerationRecord
from sia_core.search.gate import sealed_gain
from sia_core.search.lineage import parent_policy, rank
from sia_core.stats import estimate
from sia_core.weights.preconditions import suggest
from sia_core.weights.proposal import SETTINGS

MAX_REFUSALS = 6
PULLS = ("harness", "weights", "both")


def execute(session: Session, index: int) -> None:
    """Roll the node that the parent policy proposes out over a block of training problems."""
    generation = session.run.generation(index)
    if generation.phase("execute") is not None:
        return
    config, nodes = session.config, session.run.nodes()
    choice = parent_policy(config.parent).choose(nodes, config.confidence)
    node = nodes[choice.node]
    earlier = training_rollouts(session, index) if config.reuse_states else []
    units = plan_groups(session, node.candidate, index - 1, f"{index}/execute", earlier)
    rollouts = roll_out(session, node.candidate, units, f"generation {index}: execute")
    generation.put_rollouts("train", rollouts)
    generation.complete("execute", {"node": node.index, "why": choice.reason, "cost": asdict(cost_of(rollouts))})


def analyze(session: Session, index: int) -> list[Decision]:
    """Compute the evidence and let the Feedback-Agent choose branch and lever, once for each sibling."""
    generation = session.run.generation(index)
    done = generation.phase("analyze")
    if done is not None:
        return [Decision.from_dict(decision) for decision in done["decisions"]]
    nodes = session.run.nodes()
    executed = _executed(generation, nodes)
    rollouts = generation.rollouts("train")
    evidence = gather(
        executed.candidate, rollouts, confidence=session.config.confidence, seed=derive_seed(session.config.seed, index)
    )
    cost = Cost()
    if session.config.levers:
        decisions, cost = _decide(session, generation, nodes, evidence)
    else:
        decisions = [_baseline(executed)]
    session.task.canaries.check_data([asdict(decision) for decision in decisions], f"generation {index}, decision")
    generation.log_metrics(
        {
            "train.score": evidence.score.mean,
            "train.score_low": evidence.score.low,
            "train.score_high": evidence.score.high,
            "train.best_of_k": evidence.best_of,
            "train.mixed_groups": evidence.mixed,
            "train.failed": sum(evidence.failures.values()),
            "train.unscored": evidence.unscored,
        }
    )
    session.run.log_metrics({"train.score": evidence.score.mean, "train.best_of_k": evidence.best_of}, index)
    generation.complete(
        "analyze",
        {
            "evidence": asdict(evidence),
            "decisions": [asdict(decision) for decision in decisions],
            "cost": asdict(cost),
        },
        {
            "sia.lever": ",".join(decision.lever for decision in decisions),
            "sia.decision": "\n".join(decision.reason for decision in decisions),
            "sia.decided_by": ",".join(decision.agent for decision in decisions),
            "sia.category": ",".join(decision.category for decision in decisions),
        },
    )
    return decisions


def improve(session: Session, index: int) -> list[Node]:
    """Pull the lever of each decision, gate the children, and add the generation's nodes to the lineage.

    Siblings share the gate's confidence (Bonferroni), so that several tries promote a no-op no more often than one.
    Of those that are promoted the best comes last, and is the champion (`lineage.rank`).
    """
    generation = session.run.generation(index)
    done = generation.phase("improve")
    if done is not None:
        return [Node.from_dict(node) for node in done["nodes"]]
    nodes = session.run.nodes()
    analysis = generation.phase("analyze")
    assert analysis is not None
    decisions = [Decision.from_dict(decision) for decision in analysis["decisions"]]
    rejected = objection(generation)
    made = [
        replace(_child(session, generation.sibling(number), decision, nodes, len(decisions), rejected), sibling=number)
        for number, decision in enumerate(decisions)
    ]
    shared = cost_of(generation.rollouts("train")) + Cost(**analysis.get("cost", {}))
    made[0] = replace(made[0], cost=made[0].cost + shared)
    made = rank(made)
    made = [replace(node, index=len(nodes) + number) for number, node in enumerate(made)]
    _record_nodes(session, generation, made)
    return made


def _child(
    session: Session,
    generation: GenerationRecord,
    decision: Decision,
    nodes: Sequence[Node],
    siblings: int,
    rejected: str | None,
) -> Node:
    """The node of one decision; its place in the lineage is not known yet."""
    parent = nodes[decision.parent]
    pulled = Pulled(None, Cost(), rejected) if rejected else _pull(session, generation, decision, parent)
    gate, cost = None, pulled.cost
    if pulled.child is not None:
        gate, gate_cost = play_gate(session, generation, nodes, parent, pulled.child, siblings)
        cost += gate_cost
    node = Node(
        index=SEED_NODE,
        parent=parent.index,
        candidate=pulled.child or parent.candidate,
        lever=decision.lever,
        promoted=gate is not None and gate.promoted,
        gate=gate,
        decision=decision,
        cost=cost,
        failure=pulled.failure,
        generation=generation.index,
        foretold=pulled.foretold,
        draft=pulled.draft,
    )
    _log_node(generation, node)
    return node


def seal(session: Session) -> None:
    """Score the final candidate and the seed on the sealed test problems, once, with seeds of their own.

    These are the scores to report: those of the gate helped to choose the candidate, and are too good on average.
    """
    if session.run.phase("test") is not None:
        return
    config = session.config
    nodes = session.run.nodes()
    final, seed = champion(nodes), nodes[0]
    problems = pick_problems(session, "test", 0, config.test_problems)
    scores, reports, cost = {}, {}, Cost()
    for name, candidate in {"final": final.candidate, "seed": seed.candidate}.items():
        units = plan_units(session, candidate, "test", problems, config.test_rollouts, SEALED)
        rollouts = roll_out(session, candidate, units, f"sealed test: {name} candidate")
        scores[name] = scores_by_problem(rollouts)
        cost = cost_of(rollouts) if name == "final" else cost
        # Pairs, because stored objects lose their order.
        reports[name] = list(session.task.report("test", rollouts).items())
    session.run.put_json(SCORES, {**scores, "cost": asdict(cost)})
    boot = derive_seed(config.seed, "test")
    estimates = {name: estimate(side, confidence=config.confidence, seed=boot) for name, side in scores.items()}
    gain = sealed_gain(scores["seed"], scores["final"], config.confidence)
    session.run.log_metrics(
        {
            "test.final": estimates["final"].mean,
            "test.seed": estimates["seed"].mean,
            "test.gain": gain.mean,
            "test.gain_low": gain.low,
            "test.gain_high": gain.high,
        }
    )
    session.ledger.record(config.generations + 1)
    session.run.complete(
        "test",
        {
            "node": final.index,
            "candidate": asdict(final.candidate),
            "final": asdict(estimates["final"]),
            "seed": asdict(estimates["seed"]),
            "gain": asdict(gain),
            **({"report": reports} if any(reports.values()) else {}),
        },
    )


def _executed(generation: GenerationRecord, nodes: list[Node]) -> Node:
    phase = generation.phase("execute")
    assert phase is not None
    return nodes[int(phase["node"])]


def _baseline(executed: Node) -> Decision:
    return Decision("none", executed.index, "this run has no levers: it is the baseline that only samples", "none")


def _decide(
    session: Session, generation: GenerationRecord, nodes: list[Node], evidence: Evidence
) -> tuple[list[Decision], Cost]:
    """Make one decision for each sibling, until there is none left to make, and count what was played for them.

    The first decision may be to stop.
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
        decisions.append(decision)
        if decision.lever == "stop":
            break
    return decisions, cost


def _decide_one(session: Session, situation: Situation, source: SessionSource) -> Decision:
    """What the agent decides, or `rules` where it comes to no decision."""
    try:
        decision = _ask(session.agents.feedback, situation, source)
        if decision.lever == "none":
            why = "; ".join(decision.refused)
            session.reporter.say(f"generation {situation.generation}: the recorded decision is not made here: {why}")
        return decision
    except NoDecisionError as error:
        reason = f"{session.config.agent}: {error}"
        session.reporter.say(f"generation {situation.generation}: rules decides, for {reason}")
        return _ask(RulesAgent(), replace(situation, refused=(reason,)), source)


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
        parent=_executed(generation, nodes).index,
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
    )


def _reference(session: Session, seed: Node) -> str:
    first = session.run.harness(seed.candidate.harness).config
    sdk = (files("sia_core.engine") / "sdk" / "sia_sdk.py").read_text()
    return reference(sdk, session.task.config, Allowed.of(first, session.task.config.rewrite))


def _spending(session: Session, generation: GenerationRecord) -> str:
    """Spent and left at the first asking: a resumed conversation has to read the same, or it is paid for again."""
    found = generation.get_json("agent/spending.json")
    if found is None:
        found = session.ledger.describe()
        generation.put_json("agent/spending.json", found)
    return str(found)


def _ask(agent: FeedbackAgent, situation: Situation, source: SessionSource) -> Decision:
    """Ask until a decision passes its preconditions and the first rungs; refusals go back with their reasons."""
    for _ in range(MAX_REFUSALS):
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


def _pull(session: Session, generation: GenerationRecord, decision: Decision, parent: Node) -> Pulled:
    if decision.lever == "harness":
        return pull_harness(session, generation, decision, parent)
    if decision.lever == "weights":
        return _train(session, generation, decision, parent)
    if decision.lever == "both":
        rewritten = pull_harness(session, generation, decision, parent)
        if rewritten.child is None:
            return rewritten
        trained = _train(session, generation, decision, replace(parent, candidate=rewritten.child))
        draft = rewritten.child.harness if trained.child is None else ""
        return replace(trained, cost=rewritten.cost + trained.cost, foretold=rewritten.foretold, draft=draft)
    return Pulled(None, Cost(), "; ".join(decision.refused) if decision.lever == "none" else "")


def _train(session: Session, generation: GenerationRecord, decision: Decision, parent: Node) -> Pulled:
    """Train on the evidence's rollouts where they are the parent's; evidence of another pair is stale."""
    first = generation.rollouts("train")
    cost = Cost()
    if any((rollout.unit.harness, rollout.unit.adapter) != _pair(parent) for rollout in first):
        first = fresh_rollouts(session, generation, parent.candidate, 0)
        cost = cost_of(first)
        refused = refuse_batch(session, decision, parent, first)
        if refused is not None:
            return Pulled(None, cost, refused)
    pulled = pull_weights(session, generation, decision, parent, first)
    return replace(pulled, cost=cost + pulled.cost)


def _pair(node: Node) -> tuple[str, str | None]:
    return node.candidate.harness, node.candidate.adapter


def _log_node(generation: GenerationRecord, node: Node) -> None:
    metrics = {
        "promoted": float(node.promoted),
        "cost.rollouts": node.cost.rollouts,
        "cost.tokens": node.cost.tokens,
        "cost.rollout_seconds": node.cost.seconds,
    }
    if node.gate is not None:
        metrics |= {
            "gate.parent": node.gate.parent.mean,
            "gate.child": node.gate.child.mean,
            "gate.gain": node.gate.gain.mean,
            "gate.gain_bound": node.gate.gain.bound,
            "gate.looks": node.gate.looks,
            "gate.most_looks": node.gate.most_looks,
            "gate.dearness": node.gate.dearness,
        }
    generation.log_metrics(metrics)


def _record_nodes(session: Session, generation: GenerationRecord, nodes: list[Node]) -> None:
    """Add the nodes to the lineage; the last is the one that tags and charts show."""
    last = nodes[-1]
    if last.gate is not None:
        charted = {"gate.child": last.gate.child.mean, "gate.parent": last.gate.parent.mean}
        session.run.log_metrics(charted, generation.index)
    tags = {
        "sia.parent": str(last.parent),
        "sia.harness": last.candidate.harness,
        "sia.adapter": last.candidate.adapter or "",
        "sia.promoted": str(last.promoted).lower(),
    }
    if last.promoted:
        session.run.promote(last.candidate, last.index)
    generation.complete("improve", {"nodes": [node.to_dict() for node in nodes]}, tags)
    generation.end("FINISHED")
    session.ledger.record(generation.index)
    session.run.set_tags({"sia.generations_done": str(generation.index)})
