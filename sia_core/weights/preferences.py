"""Preferences between rollouts: pairs for DPO, labels for KTO. Loads no torch."""

from collections.abc import Sequence
from statistics import fmean

from sia_core.domain.rollout import Rollout
from sia_core.weights.groups import SAME_SCORE, batch_stats, make_groups, score_of

Pair = tuple[Rollout, Rollout]
"""Better, worse."""


def make_pairs(rollouts: Sequence[Rollout], margin: float | None) -> list[Pair]:
    """Pairs within groups: the best with the worst, the second best with the second worst, and so on.

    A rollout is in one pair at most, so that none counts twice. Pairs whose scores differ by no more
    than the margin are left out: the difference may be noise.

    Args:
        margin: least difference of scores; None takes half of the standard deviation within groups.
    """
    least = max(margin if margin is not None else batch_stats(rollouts).spread / 2, SAME_SCORE)
    pairs = []
    for group in make_groups(rollouts):
        ranked = sorted(group, key=score_of, reverse=True)  # Stable: ties stay in the order of unit keys.
        half = len(ranked) // 2
        for better, worse in zip(ranked[:half], reversed(ranked), strict=False):
            if score_of(better) - score_of(worse) > least:
                pairs.append((better, worse))
    return pairs


def make_labels(rollouts: Sequence[Rollout], threshold: float | None) -> list[tuple[Rollout, bool]]:
    """Return each scored rollout, and True if it is good: above the batch's mean, or not below a threshold."""
    flat = [rollout for group in make_groups(rollouts) for rollout in group]
    if threshold is None and flat:
        threshold = fmean(map(score_of, flat)) + SAME_SCORE
    return [(rollout, threshold is not None and score_of(rollout) >= threshold) for rollout in flat]
