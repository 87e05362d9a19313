"""Advantages from scores: plain functions on lists of floats, one formula each. Loads no torch.

`k` is the size of a group: the rollouts of one problem by one candidate.
"""

import math
from collections.abc import Callable, Sequence
from statistics import fmean, pstdev, stdev

from sia_core.weights.groups import SAME_SCORE

DELTA = math.log(2)
"""KL from uniform that `entropic` spends: as if half of the group were kept."""
MAX_BETA = 1e6

Scores = Sequence[float]
Advantage = Callable[[Sequence[Scores]], list[list[float]]]
"""Scores by group -> advantages by group."""


def per_group(advantage: Callable[[Scores], list[float]]) -> Advantage:
    """Apply an advantage of a single group to each group."""
    return lambda groups: [advantage(scores) for scores in groups]


def grpo(scores: Scores) -> list[float]:
    """(r - mean) / (std + 1e-4), std unbiased (GRPO: arXiv 2402.03300, section 4.1.2; epsilon as in TRL)."""
    mean = fmean(scores)
    scale = (stdev(scores) if len(scores) > 1 else 0.0) + 1e-4
    return [(score - mean) / scale for score in scores]


def dr_grpo(scores: Scores) -> list[float]:
    """Score minus the group's mean, not divided by its deviation (Dr. GRPO, arXiv 2503.20783, section 3.2)."""
    mean = fmean(scores)
    return [score - mean for score in scores]


def rloo(scores: Scores) -> list[float]:
    """Score minus the mean of the others (RLOO: arXiv 2402.14740, equation 8); 0 for a rollout without others."""
    if len(scores) < 2:
        return [0.0] * len(scores)
    total = math.fsum(scores)
    return [score - (total - score) / (len(scores) - 1) for score in scores]


def reinforce_pp(groups: Sequence[Scores]) -> list[list[float]]:
    """Score minus its group's mean, divided by the deviation over the batch (REINFORCE++-baseline, arXiv 2501.03262).

    The mean over the batch, which whitening subtracts too, is 0 after the groups' means are gone.
    """
    centred = [dr_grpo(scores) for scores in groups]
    flat = [value for group in centred for value in group]
    scale = math.sqrt(pstdev(flat) ** 2 + 1e-8) if flat else 1.0
    return [[value / scale for value in group] for group in centred]


def entropic(scores: Scores) -> list[float]:
    """TTT-Discover's adaptive entropic advantage, leave-one-out (arXiv 2601.16175, section 3).

    With q = softmax(beta r) and beta such that KL(q || uniform) = log 2:
    e_i = exp(beta (r_i - max r)), Z_i = mean of the other e, A_i = e_i / Z_i - 1. If more than k/2 scores
    tie at the maximum, log 2 is out of reach and beta ends at its limit. The advantages do not sum
    to 0, and must not be centred again.
    """
    size, top = len(scores), max(scores)
    if top - min(scores) <= SAME_SCORE:
        return [0.0] * size
    beta = entropic_beta(scores)
    weights = [math.exp(beta * (score - top)) for score in scores]
    total = math.fsum(weights)
    return [weight / ((total - weight) / (size - 1) + 1e-12) - 1 for weight in weights]


def entropic_beta(scores: Scores) -> float:
    """The beta at which softmax(beta r) is log 2 away from uniform: doubled, then bisected 60 times."""
    high = 1.0
    while high < MAX_BETA and _from_uniform(scores, high) < DELTA:
        high *= 2
    if high >= MAX_BETA:
        return MAX_BETA
    low = 0.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _from_uniform(scores, middle) < DELTA else (low, middle)
    return high


def _from_uniform(scores: Scores, beta: float) -> float:
    top = max(scores)
    weights = [math.exp(beta * (score - top)) for score in scores]
    total = math.fsum(weights)
    shares = [weight / total for weight in weights]
    return math.log(len(scores)) + math.fsum(share * math.log(share) for share in shares if share > 0)


def best_of_n(scores: Scores, threshold: float | None = None) -> list[float]:
    """1 for the best of a group, 0 for the others: behavioural cloning of the winners (RFT, arXiv 2308.01825).

    The best scores count only above the group's mean (not its median, so that a group in which most tie at
    the top still counts) and not below the threshold, if given.
    """
    top, mean = max(scores), fmean(scores)
    wins = top > mean + SAME_SCORE and (threshold is None or top >= threshold)
    return [1.0 if wins and top - score <= SAME_SCORE else 0.0 for score in scores]


def gae(rewards: Scores, values: Scores, gamma: float, lam: float) -> tuple[list[float], list[float]]:
    """Generalised advantage estimation (arXiv 1506.02438, equation 16) over the sampled tokens of one rollout.

    delta_t = r_t + gamma V_{t+1} - V_t, A_t = delta_t + gamma lam A_{t+1}, and V = 0 after the last
    token. Tokens between turns are not steps: the last token of a turn is followed by the first token of
    the next turn.

    Args:
        rewards: reward of each token, length T.
        values: value of the state in which each token was sampled, length T.

    Returns:
        Advantages and returns (advantage plus value), each of length T.
    """
    advantages = [0.0] * len(rewards)
    after = following = 0.0
    for at in reversed(range(len(rewards))):
        delta = rewards[at] + gamma * following - values[at]
        after = advantages[at] = delta + gamma * lam * after
        following = values[at]
    return advantages, [advantage + value for advantage, value in zip(advantages, values, strict=True)]


def whiten(values: Scores) -> list[float]:
    """Mean 0 and deviation 1; zeros when all are equal."""
    mean = fmean(values)
    scale = pstdev(values)
    return [(value - mean) / (scale + 1e-8) for value in values]
