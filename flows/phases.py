"""The phases of a generation: execute, analyze, improve; and the sealed test at the end.

Each phase first asks the record whether it is complete and then does nothing; otherwise it
does its work from what earlier phases recorded, and marks itself complete last. Killing the
process anywhere loses at most the unit in flight.
"""

from collections.abc import Sequence
from dataclasses import asdict, replace

from flows.approve import objection
from flows.deciding import baseline, decide, executed_node
from flows.gate import play_gate
from flows.levers import Pulled, fresh_rollouts, pull_harness, pull_weights, refuse_batch
from flows.rollouts import cost_of, execute_shape, pick_problems, plan_groups, plan_units, roll_out, training_rollouts
from flows.session import Session
from sia_core.agents.evidence import gather, scores_by_problem
from sia_core.generation import SEED_NODE, Cost, Decision, Node, champion, stand_ins
from sia_core.hashing import derive_seed
from sia_core.plan import SEALED
from sia_core.record.arms import SCORES
from sia_core.record.generation import GenerationRecord
from sia_core.record.stored import STAND_INS
from sia_core.search.gate import sealed_gain
from sia_core.search.lineage import parent_policy, rank
from sia_core.stats import estimate

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
    shape = execute_shape(session, node)
    if shape.reason:
        session.reporter.say(f"generation {index}: {shape.reason}")
    units = plan_groups(session, node.candidate, index - 1, f"{index}/execute", earlier, shape)
    rollouts = roll_out(session, node.candidate, units, f"generation {index}: execute")
    generation.put_rollouts("train", rollouts)
    done = {"node": node.index, "why": choice.reason, "cost": asdict(cost_of(rollouts)), "shape": asdict(shape)}
    generation.complete("execute", done)


def analyze(session: Session, index: int) -> list[Decision]:
    """Compute the evidence and let the Feedback-Agent choose branch and lever, once for each sibling."""
    generation = session.run.generation(index)
    done = generation.phase("analyze")
    if done is not None:
        return [Decision.from_dict(decision) for decision in done["decisions"]]
    nodes = session.run.nodes()
    executed = executed_node(generation, nodes)
    rollouts = generation.rollouts("train")
    evidence = gather(
        executed.candidate, rollouts, confidence=session.config.confidence, seed=derive_seed(session.config.seed, index)
    )
    cost = Cost()
    if session.config.levers:
        decisions, cost = decide(session, generation, nodes, evidence)
    else:
        decisions = [baseline(executed)]
    stood_in = len(stand_ins(nodes)) + sum(bool(decision.instead_of) for decision in decisions)
    session.run.set_tags({STAND_INS: str(stood_in)})
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
