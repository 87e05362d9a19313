"""The test of every promotion: is the mean of paired differences above 0? Several looks share one error rate.

Each problem has one difference: the child's mean score minus the parent's on the same seeds. Under no true gain the two
sides are exchangeable, so each difference could have had the other sign. The observed sum is compared with the sums
under such flips. If fewer than EXACT problems differ, all flips are enumerated (Fisher 1935; for binary scores with one
rollout each, the test is McNemar's exact sign test). Otherwise a fixed random sample of flips is used (the wild
bootstrap with Rademacher weights, Liu 1988). Rollouts are not resampled within problems: their noise is in the
differences already, and counting noise twice makes the test too cautious (Davison & Hinkley 1997, section 3.8). Scores
are coarse, so ties count half (mid-p, Lancaster 1961, Fagerland et al. 2013).

Looks are group-sequential (Jennison & Turnbull 2000). After a share t of the problems, at most alpha * t**POWER of the
error rate is spent (Lan & DeMets 1983, Kim & DeMets 1987). A flip that would have crossed at an earlier look is left
out of later ones, so error that coarse scores left unspent is not lost.

A hopeless child ends early: when its chance to cross at the end (predictive power under a flat prior, Spiegelhalter et
al. 1986) falls below HOPELESS. Early ends only lower the error rate. The standard error in this chance is estimated
from the differences seen, and nearly 0 where scores tie, as if few equal differences were certainty. So one pair of
unseen differences, plus and minus `unseen`, is added to the squares of a child that lies behind (as Agresti & Caffo
2000 add to counts). The pair never changes a boundary or a bound, and never makes a reading more hopeless. `at_most`
adds the same pair to a limit of few differences.

Bounds are those of repeated confidence intervals: quantiles of the means of random subsets of problems (Hartigan 1969),
at the level of the look, and the best one of the looks so far. A bound is above 0 exactly if the test has crossed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri, stdtrit

EXACT = 16
"""Number of problems that differ below which all flips are enumerated."""
SAMPLED = 8192
"""Sampled flips for EXACT problems or more; the standard error of a level of 0.1 is 0.003."""
POWER = 2.0
"""Exponent of the spending function: 1 spends evenly, 3 nearly all at the end."""
HOPELESS = 0.05
MOST_LOOKS = 4
LEAST_BLOCK = 4
"""Minimum number of problems of a look."""
_DIGITS = 9

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Reading:
    """Result of the test on the differences seen so far."""

    crossed: bool
    """True if the test said yes at this look or an earlier one."""
    chance: float
    """Share of flips whose sum is at least as large as the observed one."""
    level: float
    """Largest `chance` at which the test says yes at this look."""
    prospect: float
    """Predictive probability of a yes at the end; 0 or 1 at the end itself."""
    mean: float
    bound: float
    """Repeated one-sided lower bound of the mean; above 0 exactly if `crossed`."""

    @property
    def hopeless(self) -> bool:
        """True if the test has not said yes and `prospect` is too low to be worth the cost of further looks."""
        return not self.crossed and self.prospect < HOPELESS


def cut(problems: int) -> list[int]:
    """Problems after each look: up to MOST_LOOKS blocks of nearly equal size, none under LEAST_BLOCK."""
    looks = max(1, min(MOST_LOOKS, problems // LEAST_BLOCK))
    return [round(problems * (look + 1) / looks) for look in range(looks)]


def read(blocks: Sequence[Floats], shares: Sequence[float], alpha: float, unseen: float = 0.0) -> Reading:
    """Test the differences of all looks so far, with the boundaries of earlier looks.

    Args:
        blocks: differences of each look, shape (problems of the look,), never empty.
        shares: share of the planned problems played after each look; 1 is the end.
        alpha: error rate of the whole test, over all its looks.
        unseen: size of a possible difference that was not seen, for `prospect` only.
    """
    seen = np.concatenate(blocks)
    limits: list[float] = []
    crossed, bound, chance, level = False, -np.inf, 1.0, 0.0
    for look, share in enumerate(shares):
        sums = _flipped(blocks[: look + 1])
        so_far = np.concatenate(blocks[: look + 1])
        limits.append(_limit(sums, limits, alpha * share**POWER))
        total = round(float(so_far.sum()), _DIGITS)
        crossed = crossed or total >= limits[-1]
        chance, level = (float((sums[-1] >= least).mean()) for least in (total, limits[-1]))
        bound = max(bound, subset_quantiles(so_far, [level])[0])
    ahead = float(prospect(seen.sum(), (seen**2).sum(), shares[-1], alpha, unseen)) if shares[-1] < 1 else 0.0
    return Reading(crossed, chance, level, 1.0 if crossed else ahead, float(seen.mean()), bound)


def prospect(sums: Floats, squares: Floats, share: float, alpha: float, unseen: float = 0.0) -> Floats:
    """Compute the chance of a yes at the end, as if it were the only look (Jennison & Turnbull 2000, section 10.3).

    Args:
        sums: sums of the differences so far, any shape.
        squares: sums of their squares, the same shape.
        share: share of the planned problems played, below 1.
        alpha: error rate of the test.
        unseen: size of a possible difference that was not seen.
    """
    spread = np.sqrt(squares + np.where(np.less(sums, 0), 2 * unseen**2, 0.0))
    z = np.divide(sums, spread, out=np.zeros_like(spread), where=spread > 0)
    found: Floats = ndtr((z - ndtri(1 - alpha) * np.sqrt(share)) / np.sqrt(1 - share))
    return found


def at_most(values: Floats, confidence: float, unseen: float) -> float:
    """Compute the one-sided upper limit of the mean of few differences, by t with one unseen pair added.

    The limit of equal differences has a width too, which falls with their number.
    """
    freedom = values.size + 1
    variance = (float(((values - values.mean()) ** 2).sum()) + 2 * unseen**2) / freedom
    return float(values.mean() + stdtrit(freedom, confidence) * np.sqrt(variance / values.size))


def subset_quantiles(values: Floats, levels: Sequence[float]) -> list[float]:
    """Quantiles of the means of random subsets: limits of the mean that hold for few values and any symmetric law.

    Levels up to 0.5 are lower limits, others upper ones. The empty subset stands for a limit that too few values
    cannot give: its mean is set to minus (plus) the largest difference seen, so that no false bound is claimed.
    """
    total, sums = float(values.sum()), _flipped([values])[-1]
    picked = np.round((total - sums) / 2, _DIGITS)
    sizes = _subset_sizes(values)
    means = np.divide(picked, sizes, out=np.zeros_like(picked), where=sizes > 0)
    far = float(np.abs(values).max(initial=0.0))
    found = []
    for level in levels:
        lower = level <= 0.5
        ordered = np.sort(np.where(sizes > 0, means, -far if lower else far))
        # The smallest limit at which more than this share of subsets has a mean at or below it.
        place = int(np.floor((level if lower else 1 - level) * ordered.size + 1e-9))
        at = min(place, ordered.size - 1)
        found.append(float(ordered[at] if lower else ordered[ordered.size - 1 - at]))
    return found


def _limit(sums: Sequence[Floats], earlier: Sequence[float], spend: float) -> float:
    """Return the smallest sum that is a yes at the last look; inf if there is none.

    Ties count half: a sum is a yes if the share of flips above it, plus half of those equal to it, fits the error
    rate that is left.
    """
    alive = np.ones(sums[-1].size, bool)
    for before, limit in zip(sums, earlier, strict=False):
        alive &= before < limit
    available = spend - (1 - alive.mean())
    values, counts = np.unique(sums[-1][alive], return_counts=True)
    above = np.cumsum(counts[::-1])[::-1] - counts
    fits = ((above + counts / 2) / alive.size <= available + 1e-12) & (values > 0)
    return float(values[fits].min(initial=np.inf))


def _flipped(blocks: Sequence[Floats]) -> list[Floats]:
    """Sums after each look under every flip, shape (flips,) each; the first flip changes nothing."""
    if sum(map(np.count_nonzero, blocks)) < EXACT:
        sums = _enumerated(blocks)
    else:
        signs = _signs(max(64, sum(block.size for block in blocks)))
        ends = np.cumsum([block.size for block in blocks])
        parts = [signs[:, end - block.size : end] @ block for end, block in zip(ends, blocks, strict=True)]
        sums = list(np.cumsum(parts, axis=0))
    return [np.round(one, _DIGITS) for one in sums]


def _enumerated(blocks: Sequence[Floats]) -> list[Floats]:
    ends: list[Floats] = []
    sums = np.zeros(1)
    for block in blocks:
        for value in block[block != 0]:
            sums = np.concatenate([sums + value, sums - value])
            ends = [np.concatenate([end, end]) for end in ends]
        ends.append(sums)
    return ends


def _subset_sizes(values: Floats) -> Floats:
    """Number of values that each flip picks. Values of 0 do not change a sum, and are picked at random."""
    if np.count_nonzero(values) >= EXACT:
        signs = _signs(max(64, values.size))[:, : values.size]
        picked: Floats = (values.size - signs.sum(1)) / 2
        return picked
    sizes: Floats = np.zeros(1)
    for _ in range(np.count_nonzero(values)):
        sizes = np.concatenate([sizes, sizes + 1])
    zeros = int(values.size - np.count_nonzero(values))
    drawn: Floats = np.random.default_rng(0).binomial(zeros, 0.5, sizes.size).astype(float)
    return sizes + drawn


@cache
def _signs(problems: int) -> Floats:
    """Draw a fixed sample of flips, so that verdicts are reproducible, shape (SAMPLED, problems)."""
    signs: Floats = np.random.default_rng(0).integers(0, 2, (SAMPLED, problems)).astype(np.float64) * 2 - 1
    signs[0] = 1  # The first flip changes nothing: the observation is one of the flips.
    return signs
