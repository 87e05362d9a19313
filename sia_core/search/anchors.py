"""Anchor problems: has a weight update made the policy forget what it could do?

The same training problems after every update, never trained on, played by parent and child with the same seeds. The
gate asks whether a child is better and needs proof for it; this asks whether it is worse and needs proof too, so that
a few problems are enough to catch a collapse and chance alone rejects few.
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
    """Parent minus child; `bound` is what the loss is at least."""
    forgotten: bool
    reason: str


def judge_anchors(
    parent: Scores, child: Scores, *, expected: int, tolerance: float, confidence: float, seed: int
) -> AnchorVerdict | None:
    """Judge whether the child has lost more than the tolerance, by the one-sided paired bootstrap bound.

    Args:
        parent: problem id -> scores of the parent's rollouts; unscored ones are left out.
        child: the same for the child.
        expected: rollouts each side should have had.
        tolerance: loss that is put up with, in units of the score.
        confidence: of the bound.
        seed: of the bootstrap.

    Returns:
        None where too few rollouts were scored to say anything.
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
