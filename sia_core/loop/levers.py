"""Pull the lever of a decision: return a child candidate, or the reason why there is none.

Engine, weights and record meet here and are otherwise independent.
"""

from collections.abc import Sequence
from dataclasses import replace

from sia_core.domain.lineage import Cost, Decision, Node
from sia_core.domain.rollout import Rollout
from sia_core.loop.harness_lever import Pulled, pull_harness, unwritable
from sia_core.loop.rollouts import cost_of, is_stale
from sia_core.loop.session import Session
from sia_core.loop.weight_lever import fresh_rollouts, pull_weights, refuse_batch, untrainable
from sia_core.record.generation import GenerationRecord


def objections(session: Session, decision: Decision, parent: Node, evidence: Sequence[Rollout]) -> list[str]:
    """List every reason why a decision cannot be carried out. This only reads and costs nothing."""
    needed = ("harness", "weights") if decision.lever == "both" else (decision.lever,)
    found = [
        f"lever {lever} is not among this run's levers"
        for lever in needed
        if lever not in (*session.config.levers, "none", "stop")
    ]
    if "harness" in needed:
        found += unwritable(session, decision, parent)
    if "weights" in needed:
        found += untrainable(session, decision, parent, evidence)
    return found


def pull(session: Session, generation: GenerationRecord, decision: Decision, parent: Node) -> Pulled:
    """Pull the lever of a decision. The child has not passed the gate yet."""
    if decision.lever == "harness":
        return pull_harness(session, generation, decision, parent)
    if decision.lever == "weights":
        return _train_on_evidence(session, generation, decision, parent)
    if decision.lever == "both":
        rewritten = pull_harness(session, generation, decision, parent)
        if rewritten.child is None:
            return rewritten
        trained = _train_on_evidence(session, generation, decision, replace(parent, candidate=rewritten.child))
        draft = rewritten.child.harness if trained.child is None else ""
        return replace(trained, cost=rewritten.cost + trained.cost, predicted=rewritten.predicted, draft=draft)
    return Pulled(None, Cost(), "; ".join(decision.refused) if decision.lever == "none" else "")


def _train_on_evidence(session: Session, generation: GenerationRecord, decision: Decision, parent: Node) -> Pulled:
    """Train on the evidence's rollouts if they are the parent's, else on fresh ones."""
    first = generation.rollouts("train")
    cost = Cost()
    if is_stale(first, parent.candidate):
        first = fresh_rollouts(session, generation, parent.candidate, 0)
        cost = cost_of(first)
        refused = refuse_batch(session, decision, parent, first)
        if refused is not None:
            return Pulled(None, cost, refused)
    pulled = pull_weights(session, generation, decision, parent, first)
    return replace(pulled, cost=cost + pulled.cost)
