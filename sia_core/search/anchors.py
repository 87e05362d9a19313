"""Anchor problems: a test whether a weight update made the policy forget how to solve problems.

After every update, parent and child play the same held-out training problems with the same seeds. The gate needs proof
that a child is better. The anchors need proof that the child is worse, so that a few problems are enough to catch a
collapse, and chance alone rejects few children.
"""

from dataclasses import dataclass

from sia_core.domain.stats import Estimate, Gain, Scores, estimate, paired_gain
from sia_core.search.gate import MAX_UNSCORED


@dataclass(frozen=True)
class AnchorVerdict:
    """Verdict of the anchor problems on a child."""

    parent: Estimate
    child: Estimate
    loss: Gain
    """Parent minus child; `bound` is the lower bound of the loss."""
    forgotten: bool
    reason: str


def judge_anchors(
    parent: Scores, child: Scores, *, expected: int, tolerance: float, confidence: float, seed: int
) -> AnchorVerdict | None:
    """Judge whether the child has lost more than the tolerance, by the one-sided paired bootstrap bound.

    Args:
        parent: problem id -> scores of the parent's rollouts; unscored ones are left out.
        child: problem id -> scores of the child's rollouts.
        expected: planned rollouts of each side.
        tolerance: acceptable loss, in units of the score.
        confidence: confidence of the bound.
        seed: seed of the bootstrap.

    Returns:
        None where too few rollouts were scored.
    """
    common = [problem for problem in parent if parent[problem] and child.get(problem)]
    scored = min(sum(map(len, side.values())) for side in (parent, child))
    if len(common) < 2 or 1 - scored / expected > MAX_UNSCORED:
        return None
    loss = paired_gain(child, parent, confidence=confidence, seed=seed)
    sides = [estimate(side, confidence=confidence, seed=seed) for side in (parent, child)]
    forgotten = loss.bound > tolerance
    reason = (
        f"{sides[0].mean:.4f} before and {sides[1].mean:.4f} after on {loss.problems} anchor problems: "
        f"the loss is at least {loss.bound:.4f} at {confidence:.0%}, the tolerance is {tolerance:g}"
    )
    return AnchorVerdict(sides[0], sides[1], loss, forgotten, reason)
