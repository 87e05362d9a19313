"""The promotion gate: a child replaces its parent only if a paired test says it is better.

One look at a block fixed in advance, so the error rate is the stated one. Ties and undecided
children keep the parent; they stay in the lineage.
"""

from dataclasses import replace

from sia_core.generation import GateVerdict
from sia_core.stats import Scores, estimate, paired_gain

MAX_UNSCORED = 0.2
"""A trial in which more rollouts than this share failed for infrastructure reasons is void."""


def judge(parent: Scores, child: Scores, *, expected: int, confidence: float, seed: int, tries: int = 1) -> GateVerdict:
    """Compare parent and child on one block of gate problems.

    Args:
        parent: problem id -> scores of the parent's rollouts; unscored ones are left out.
        child: the same for the child.
        expected: rollouts each side should have had.
        confidence: of the one-sided bound; 0.9 promotes one no-op in ten.
        seed: of the bootstrap.
        tries: children that are judged side by side; they share the error rate (Bonferroni).

    Raises:
        ValueError: fewer than two problems in common.
    """
    gain = paired_gain(parent, child, confidence=confidence, seed=seed)
    shared = 1 - (1 - confidence) / tries
    if tries > 1:
        gain = replace(gain, bound=paired_gain(parent, child, confidence=shared, seed=seed).bound)
    sides = [estimate(side, confidence=confidence, seed=seed) for side in (parent, child)]
    missing = 1 - min(side.rollouts for side in sides) / expected
    void = missing > MAX_UNSCORED
    promoted = gain.bound > 0 and not void
    if void:
        reason = f"void: {missing:.0%} of the rollouts are unscored"
    else:
        reason = f"lower bound of the gain at {shared:.0%} is {gain.bound:+.4f}"
    return GateVerdict(sides[0], sides[1], gain, promoted, reason)
