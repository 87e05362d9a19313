"""Improve phase: pull the lever of each decision, gate the children, and extend the lineage."""

from collections.abc import Sequence
from dataclasses import replace

from sia_core.domain.lineage import SEED_NODE, Cost, Decision, Node
from sia_core.loop.gate import play_gate
from sia_core.loop.harness_lever import Pulled
from sia_core.loop.levers import pull
from sia_core.loop.rollouts import cost_of
from sia_core.loop.session import Session
from sia_core.record.generation import GenerationRecord
from sia_core.record.phases import AnalyzeDone, ApprovalDone, ImproveDone
from sia_core.record.tags import Tag
from sia_core.search.lineage import rank


def improve(session: Session, index: int) -> list[Node]:
    """Pull the lever of each decision, gate the children, and add the generation's nodes to the lineage.

    Siblings share the gate's confidence (Bonferroni), so that several tries promote a no-op no more often than one try.
    The best promoted sibling comes last and is the champion (`lineage.rank`).
    """
    generation = session.run.generation(index)
    done = generation.phase(ImproveDone)
    if done is not None:
        return list(done.nodes)
    nodes = session.run.nodes()
    analysis = generation.phase(AnalyzeDone)
    assert analysis is not None
    decisions = analysis.decisions
    rejected = _rejection(generation)
    made = [
        replace(_child(session, generation.sibling(number), decision, nodes, len(decisions), rejected), sibling=number)
        for number, decision in enumerate(decisions)
    ]
    shared = cost_of(generation.rollouts("train")) + analysis.cost
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
    """Make the node of one decision, without its place in the lineage."""
    parent = nodes[decision.parent]
    pulled = Pulled(None, Cost(), rejected) if rejected else pull(session, generation, decision, parent)
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
        predicted=pulled.predicted,
        draft=pulled.draft,
    )
    _log_node(generation, node)
    return node


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
            "gate.token_ratio": node.gate.token_ratio,
        }
    generation.log_metrics(metrics)


def _record_nodes(session: Session, generation: GenerationRecord, nodes: list[Node]) -> None:
    """Add the nodes to the lineage; tags and charts show the last one."""
    last = nodes[-1]
    if last.gate is not None:
        charted = {"gate.child": last.gate.child.mean, "gate.parent": last.gate.parent.mean}
        session.run.log_metrics(charted, generation.index)
    tags = {
        Tag.PARENT: str(last.parent),
        Tag.HARNESS: last.candidate.harness,
        Tag.ADAPTER: last.candidate.adapter or "",
        Tag.PROMOTED: str(last.promoted).lower(),
    }
    if last.promoted:
        session.run.promote(last.candidate, last.index)
    generation.complete(ImproveDone(nodes=tuple(nodes)), tags)
    generation.end("FINISHED")
    session.ledger.record(generation.index)
    session.run.set_tags({Tag.GENERATIONS_DONE: str(generation.index)})


def _rejection(generation: GenerationRecord) -> str | None:
    """Return your reason for rejecting the decision, or None."""
    said = generation.phase(ApprovalDone)
    if said is None or said.approved:
        return None
    return f"rejected by a person: {said.note or 'no reason given'}"
