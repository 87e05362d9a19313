"""Roll parent and child of a weight update out on the anchor problems, and record the verdict."""

from dataclasses import asdict

from sia_core.agents.evidence import scores_by_problem
from sia_core.domain.candidate import Candidate
from sia_core.domain.hashing import derive_seed
from sia_core.domain.lineage import Cost
from sia_core.loop.rollouts import anchor_problems, cost_of, plan_units, roll_out
from sia_core.loop.session import Session
from sia_core.record.generation import GenerationRecord
from sia_core.search.anchors import judge_anchors


def check_anchors(
    session: Session, generation: GenerationRecord, parent: Candidate, child: Candidate
) -> tuple[str | None, Cost]:
    """Return the reason why a child must be rejected, or None, and the cost of the check.

    Units do not depend on the generation, so the rollouts of a parent that was checked before come from the journal.
    They cost nothing, though they are counted again.
    """
    problems, config, update = anchor_problems(session), session.config, session.task.config.update
    if not problems:
        return None, Cost()
    sides, cost = [], Cost()
    for name, candidate in {"parent": parent, "child": child}.items():
        units = plan_units(session, candidate, "train", problems, config.gate_rollouts, "anchors")
        rollouts = roll_out(session, candidate, units, f"generation {generation.index}: anchors, {name}")
        generation.put_rollouts(f"anchors_{name}", rollouts)
        sides.append(scores_by_problem(rollouts))
        cost += cost_of(rollouts)
    verdict = judge_anchors(
        *sides,
        expected=len(problems) * config.gate_rollouts,
        tolerance=update.anchor_tolerance,
        confidence=config.confidence,
        seed=derive_seed(config.seed, "anchors", generation.index),
    )
    generation.put_json("update/anchors.json", None if verdict is None else asdict(verdict))
    if verdict is None:
        return "too few anchor rollouts were scored to know whether the update forgets", cost
    generation.log_metrics(
        {
            "anchors.parent": verdict.parent.mean,
            "anchors.child": verdict.child.mean,
            "anchors.loss": verdict.loss.mean,
            "anchors.loss_bound": verdict.loss.bound,
        }
    )
    return f"forgetting: {verdict.reason}" if verdict.forgotten else None, cost
