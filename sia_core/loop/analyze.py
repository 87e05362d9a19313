"""Analyze phase: compute the evidence, and let the Feedback-Agent choose branch and lever."""

from sia_core.agents.evidence import gather
from sia_core.domain.hashing import derive_seed
from sia_core.domain.lineage import Cost, Decision, stand_ins
from sia_core.loop.decide import baseline, decide, executed_node
from sia_core.loop.session import Session
from sia_core.record.phases import AnalyzeDone
from sia_core.record.tags import Tag


def analyze(session: Session, index: int) -> list[Decision]:
    """Compute the evidence and let the Feedback-Agent choose branch and lever, once for each sibling."""
    generation = session.run.generation(index)
    done = generation.phase(AnalyzeDone)
    if done is not None:
        return list(done.decisions)
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
    session.run.set_tags({Tag.STAND_INS: str(stood_in)})
    generation.log_metrics(
        {
            "train.score": evidence.score.mean,
            "train.score_low": evidence.score.low,
            "train.score_high": evidence.score.high,
            "train.best_of_k": evidence.best_of,
            "train.mixed_groups": evidence.mixed,
            "train.failed": sum(evidence.failures.values()),
            "train.unscored": evidence.unscored,
            **{f"train.replies_{kind}": share for kind, share in evidence.replies.shares.items()},
        }
    )
    session.run.log_metrics({"train.score": evidence.score.mean, "train.best_of_k": evidence.best_of}, index)
    generation.complete(
        AnalyzeDone(evidence=evidence, decisions=tuple(decisions), cost=cost),
        {
            Tag.LEVER: ",".join(decision.lever for decision in decisions),
            Tag.DECISION: "\n".join(decision.reason for decision in decisions),
            Tag.DECIDED_BY: ",".join(decision.agent for decision in decisions),
            Tag.CATEGORY: ",".join(decision.category for decision in decisions),
        },
    )
    return decisions
