"""The phases of a generation: execute, analyze, improve; and the sealed test at the end.

Each phase first asks the record whether it is complete and then does nothing; otherwise it
does its work from what earlier phases recorded, and marks itself complete last. Killing the
process anywhere loses at most the unit in flight.
"""

from dataclasses import asdict, replace

from flows.levers import Pulled, pull_harness, pull_weights, refusal
from flows.rollouts import cost_of, pick_problems, plan_units, roll_out
from flows.session import Session
from sia_core.agents.evidence import gather, scores_by_problem
from sia_core.agents.protocol import Situation
from sia_core.candidate import Candidate
from sia_core.config import Lever
from sia_core.generation import Cost, Decision, Evidence, GateVerdict, Node, champion
from sia_core.hashing import derive_seed
from sia_core.record.store import GenerationRecord
from sia_core.search.gate import judge
from sia_core.stats import estimate, paired_gain

MAX_REFUSALS = 3


def execute(session: Session, index: int) -> None:
    """Roll the current candidate out over a block of training problems."""
    generation = session.run.generation(index)
    if generation.phase("execute") is not None:
        return
    node = champion(session.run.nodes())
    config = session.config
    problems = pick_problems(session, "train", index - 1, config.problems)
    units = plan_units(session, node.candidate, "train", problems, config.rollouts, f"{index}/execute")
    rollouts = roll_out(session, node.candidate, units, f"generation {index}: execute")
    generation.put_rollouts("train", rollouts)
    generation.complete("execute", {"node": node.index, "cost": asdict(cost_of(rollouts))})


def analyze(session: Session, index: int) -> Decision:
    """Compute the evidence and let the Feedback-Agent choose branch and lever."""
    generation = session.run.generation(index)
    done = generation.phase("analyze")
    if done is not None:
        return Decision.from_dict(done["decision"])
    nodes = session.run.nodes()
    executed = _executed(generation, nodes)
    rollouts = generation.rollouts("train")
    evidence = gather(
        executed.candidate, rollouts, confidence=session.config.confidence, seed=derive_seed(session.config.seed, index)
    )
    decision = _decide(session, generation, nodes, evidence) if session.config.levers else _baseline(executed)
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
        {"evidence": asdict(evidence), "decision": asdict(decision)},
        {"sia.lever": decision.lever, "sia.decision": decision.reason},
    )
    return decision


def improve(session: Session, index: int) -> Node:
    """Pull the lever, gate the child, and add the generation's node to the lineage."""
    generation = session.run.generation(index)
    done = generation.phase("improve")
    if done is not None:
        return Node.from_dict(done["node"])
    nodes = session.run.nodes()
    analysis = generation.phase("analyze")
    assert analysis is not None
    decision = Decision.from_dict(analysis["decision"])
    parent = nodes[decision.parent]
    cost = cost_of(generation.rollouts("train"))
    pulled = _pull(session, generation, decision, parent)
    gate = None
    if pulled.child is not None:
        gate, gate_cost = _gate(session, generation, parent.candidate, pulled.child)
        cost += gate_cost
    node = Node(
        index=index,
        parent=parent.index,
        candidate=pulled.child or parent.candidate,
        lever=decision.lever,
        promoted=gate is not None and gate.promoted,
        gate=gate,
        decision=decision,
        cost=cost + pulled.cost,
        failure=pulled.failure,
    )
    _record_node(session, generation, node)
    return node


def seal(session: Session) -> None:
    """Score the final candidate and the seed on the sealed test problems, once."""
    if session.run.phase("test") is not None:
        return
    config = session.config
    nodes = session.run.nodes()
    final, seed = champion(nodes), nodes[0]
    problems = pick_problems(session, "test", 0, config.test_problems)
    scores = {}
    for name, candidate in {"final": final.candidate, "seed": seed.candidate}.items():
        units = plan_units(session, candidate, "test", problems, config.test_rollouts, "sealed")
        scores[name] = scores_by_problem(roll_out(session, candidate, units, f"sealed test: {name} candidate"))
    boot = derive_seed(config.seed, "test")
    estimates = {name: estimate(side, confidence=config.confidence, seed=boot) for name, side in scores.items()}
    gain = paired_gain(scores["seed"], scores["final"], confidence=config.confidence, seed=boot)
    session.run.log_metrics(
        {
            "test.final": estimates["final"].mean,
            "test.seed": estimates["seed"].mean,
            "test.gain": gain.mean,
            "test.gain_low": gain.low,
            "test.gain_high": gain.high,
        }
    )
    session.run.complete(
        "test",
        {
            "node": final.index,
            "candidate": asdict(final.candidate),
            "final": asdict(estimates["final"]),
            "seed": asdict(estimates["seed"]),
            "gain": asdict(gain),
        },
    )


def _executed(generation: GenerationRecord, nodes: list[Node]) -> Node:
    phase = generation.phase("execute")
    assert phase is not None
    return nodes[int(phase["node"])]


def _baseline(executed: Node) -> Decision:
    return Decision("none", executed.index, "this run has no levers: it is the baseline that only samples", "none")


def _decide(session: Session, generation: GenerationRecord, nodes: list[Node], evidence: Evidence) -> Decision:
    """Ask until a decision passes its preconditions; refusals go back with their reason."""
    config = session.config
    gate = 2 * config.gate_problems * config.gate_rollouts
    rounds = session.task.config.update.rounds
    costs: dict[Lever, int] = {
        "harness": gate,
        "weights": gate + (rounds - 1) * config.problems * config.rollouts,
    }
    harness = session.run.harness(evidence.candidate.harness)
    situation = Situation(evidence, nodes, harness, config.levers, costs)
    for _ in range(MAX_REFUSALS):
        decision = session.agent.decide(situation)
        reason = refusal(session, decision, nodes[decision.parent], generation.rollouts("train"))
        if reason is None:
            return decision
        lever = decision.lever
        levers = (*situation.refused_levers, lever) if lever in ("harness", "weights") else situation.refused_levers
        situation = replace(situation, refused=(*situation.refused, f"{lever}: {reason}"), refused_levers=levers)
    return Decision(
        "stop", champion(nodes).index, "no decision passed its preconditions", config.agent, refused=situation.refused
    )


def _pull(session: Session, generation: GenerationRecord, decision: Decision, parent: Node) -> Pulled:
    if decision.lever == "harness":
        return pull_harness(session, generation, decision, parent)
    if decision.lever == "weights":
        return pull_weights(session, generation, decision, parent, generation.rollouts("train"))
    return Pulled(None, Cost())


def _gate(
    session: Session, generation: GenerationRecord, parent: Candidate, child: Candidate
) -> tuple[GateVerdict, Cost]:
    config = session.config
    problems = pick_problems(session, "gate", generation.index - 1, config.gate_problems)
    scores, cost = [], Cost()
    for name, candidate in {"parent": parent, "child": child}.items():
        units = plan_units(session, candidate, "gate", problems, config.gate_rollouts, f"{generation.index}/gate")
        rollouts = roll_out(session, candidate, units, f"generation {generation.index}: gate, {name}")
        generation.put_rollouts(f"gate_{name}", rollouts)
        scores.append(scores_by_problem(rollouts))
        cost += cost_of(rollouts)
    expected = len(problems) * config.gate_rollouts
    seed = derive_seed(config.seed, "gate", generation.index)
    return judge(scores[0], scores[1], expected=expected, confidence=config.confidence, seed=seed), cost


def _record_node(session: Session, generation: GenerationRecord, node: Node) -> None:
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
        }
        session.run.log_metrics({"gate.child": node.gate.child.mean, "gate.parent": node.gate.parent.mean}, node.index)
    generation.log_metrics(metrics)
    tags = {
        "sia.parent": str(node.parent),
        "sia.harness": node.candidate.harness,
        "sia.adapter": node.candidate.adapter or "",
        "sia.promoted": str(node.promoted).lower(),
    }
    generation.complete("improve", {"node": node.to_dict()}, tags)
    generation.end("FINISHED")
    session.run.set_tags({"sia.generations_done": str(node.index)})
