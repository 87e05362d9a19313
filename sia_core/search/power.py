"""The power of a gate before it is played: the true gain that the gate would detect.

The gate is simulated on normal differences: sums and squares of each block are drawn directly (a normal and a
chi-square variate a block), so that the cost does not depend on the number of problems. Boundaries are the quantiles of
the same draws without a gain, which spend the error rate as `sequential` does. Futility is `sequential.prospect`.
Draws are fixed, so that the same gate gets the same answer.

Not covered: coarse scores make the exact test a little less powerful than normal ones, and the drift condition
(`lineage.rival`).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf, sqrt

import numpy as np

from sia_core.domain.lineage import GateVerdict
from sia_core.domain.stats import Scores
from sia_core.search.gate import Rules
from sia_core.search.sequential import HOPELESS, POWER, Floats, cut, prospect, read

CHANCE = 0.8
"""Probability of promotion at the detectable gain."""
_PATHS = 20_000
_MOST = 64.0
"""Largest gain tried, in standard deviations of a difference."""


@dataclass(frozen=True)
class Paths:
    """Simulated gates without a gain, in standard deviations: by block, shape (paths, blocks)."""

    sizes: Floats
    """Problems of each block, shape (blocks,)."""
    means: Floats
    squares: Floats
    """Sums of squares around the block's mean."""

    @classmethod
    def of(cls, problems: int) -> "Paths":
        """Draw the paths of a gate with a number of problems."""
        sizes = np.diff([0, *cut(problems)]).astype(float)
        rng = np.random.default_rng(0)
        means = rng.standard_normal((_PATHS, sizes.size)) / np.sqrt(sizes)
        # A chi-square variate without degrees of freedom is 0.
        squares = 2 * rng.standard_gamma((sizes - 1) / 2, (_PATHS, sizes.size))
        return cls(sizes, means, squares)

    @property
    def shares(self) -> list[float]:
        """Share of the problems played after each look."""
        return [float(share) for share in np.cumsum(self.sizes) / self.sizes.sum()]

    def at(self, gain: float) -> tuple[Floats, Floats]:
        """Return sums and sums of squares after each look at a true gain, shape (paths, looks) each."""
        means = self.means + gain
        squares = self.squares + self.sizes * means**2
        return np.cumsum(self.sizes * means, axis=1), np.cumsum(squares, axis=1)

    def limits(self, alpha: float) -> list[float]:
        """Return the least z of a promotion at each look, such that alpha * share ** POWER is spent so far."""
        sums, squares = self.at(0.0)
        z, alive, found = sums / np.sqrt(squares), np.ones(_PATHS, bool), []
        for look, share in enumerate(self.shares):
            left = alpha * share**POWER - (1 - alive.mean())
            kept = max(1 - left / alive.mean(), 0.0)
            found.append(float(np.quantile(z[alive, look], kept)) if kept < 1 else inf)
            alive &= z[:, look] < found[-1]
        return found


def power(gain: float, paths: Paths, alpha: float, unseen: float = 0.0) -> float:
    """Compute the probability of promotion at a true gain above the margin, both in standard deviations."""
    sums, squares = paths.at(gain)
    limits, shares = paths.limits(alpha), paths.shares
    playing, promoted = np.ones(_PATHS, bool), 0.0
    for look, (limit, share) in enumerate(zip(limits, shares, strict=True)):
        crossed = playing & (sums[:, look] / np.sqrt(squares[:, look]) >= limit)
        promoted += float(crossed.mean())
        playing &= ~crossed
        if share < 1:
            playing &= prospect(sums[:, look], squares[:, look], share, alpha, unseen) >= HOPELESS
    return promoted


def detectable(rules: Rules, problems: int, spread: float, *, margin: float = 0.0, unseen: float = 0.0) -> float:
    """Find the true gain that a gate promotes with probability CHANCE.

    Args:
        rules: rules of the gate; `spread` is for their number of rollouts.
        problems: planned number of problems.
        spread: standard deviation of the paired differences, above 0.
        margin: gain required for more tokens.
        unseen: as in `sequential.read`.

    Returns:
        A gain in units of the score; infinite if the problems are too few to promote any gain with CHANCE.
    """
    paths, ends = Paths.of(problems), cut(problems)
    ones = np.split(np.ones(problems), ends[:-1])
    if not read(ones, paths.shares, rules.alpha).crossed:
        return inf
    low, high = 0.0, 0.125
    while power(high, paths, rules.alpha, unseen / spread) < CHANCE:
        low, high = high, 2 * high
        if high > _MOST:
            return inf
    for _ in range(12):
        middle = (low + high) / 2
        reached = power(middle, paths, rules.alpha, unseen / spread) >= CHANCE
        low, high = (low, middle) if reached else (middle, high)
    return margin + high * spread


def spread_of_gates(gates: Iterable[GateVerdict], unseen: float) -> float | None:
    """Pool the standard deviation of the paired differences over earlier gates; None where none was played."""
    played = [gate for gate in gates if not gate.void and gate.gain.problems > 1]
    sizes = [gate.gain.problems for gate in played]
    squares = [gate.error**2 * size * (size - 1) for gate, size in zip(played, sizes, strict=True)]
    return _shrunk(sum(squares), sum(size - 1 for size in sizes), unseen) if played else None


def spread_of_scores(scores: Scores, rollouts: int, unseen: float) -> float:
    """Estimate the standard deviation of the paired differences from one side's scores.

    The variance of a difference between two sides is twice the variance within problems, divided by `rollouts`. If
    each problem has one rollout only, the variance between problems replaces it, which is too large.
    """
    groups = [np.asarray(found, float) for found in scores.values() if len(found)]
    freedom = sum(group.size - 1 for group in groups)
    squares = sum(float(((group - group.mean()) ** 2).sum()) for group in groups)
    if not freedom:
        alone = np.concatenate(groups)
        freedom, squares = max(alone.size - 1, 1), float(((alone - alone.mean()) ** 2).sum())
    return _shrunk(2 * squares / freedom / rollouts * len(groups), len(groups), unseen)


def _shrunk(squares: float, count: int, unseen: float) -> float:
    """Standard deviation with one unseen pair added, because ties do not prove that differences are impossible."""
    return sqrt((squares + 2 * unseen**2) / (count + 2))
