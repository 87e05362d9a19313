"""Compute the two statistics behind every printed number: a mean with its interval, and a paired gain.

Scores of one problem are not independent, so both statistics resample problems first and rollouts within them (cluster
bootstrap; Davison & Hinkley 1997, section 3.8). They are deterministic in `seed`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 4000

Scores = Mapping[str, Sequence[float]]
"""Scores of rollouts by problem id."""


@dataclass(frozen=True)
class Estimate:
    """A mean over problems and the two-sided interval around it."""

    mean: float
    low: float
    high: float
    problems: int
    rollouts: int

    @property
    def basis(self) -> str:
        """Mean, interval, and number of problems and rollouts, as text."""
        return f"{self} over {self.problems} problems ({self.rollouts} rollouts)"

    def __str__(self) -> str:
        return f"{self.mean:.4f} [{self.low:.4f}, {self.high:.4f}]"


@dataclass(frozen=True)
class Gain:
    """Child minus parent on the same problems.

    `bound` is the one-sided lower bound at the asked confidence; `low` and `high` are the
    two-sided interval at the same confidence.
    """

    mean: float
    bound: float
    low: float
    high: float
    problems: int

    def __str__(self) -> str:
        return f"{self.mean:+.4f} [{self.low:+.4f}, {self.high:+.4f}]"


def within_share(scores: Scores) -> float | None:
    """Return the share of the scores' variance that lies within problems, from 0 (each problem one score) to 1.

    Both components are those of a one-way analysis of variance with random effects (Searle et al. 1992, chapter 3); a
    negative between component counts as 0. None if fewer than two problems have two scores.
    """
    groups = [np.asarray(found, float) for _, found in sorted(scores.items()) if len(found) > 1]
    if len(groups) < 2:
        return None
    within = float(np.average([group.var(ddof=1) for group in groups], weights=[len(group) - 1 for group in groups]))
    size = 1 / float(np.mean([1 / len(group) for group in groups]))
    between = max(float(np.var([group.mean() for group in groups], ddof=1)) - within / size, 0.0)
    return within / (within + between) if within + between else 0.0


def estimate(scores: Scores, *, confidence: float, seed: int = 0) -> Estimate:
    """Estimate the mean over problems of the mean over rollouts, with a percentile bootstrap interval.

    Raises:
        ValueError: there are no scores.
    """
    groups = [np.asarray(scores[problem], float) for problem in sorted(scores) if len(scores[problem])]
    if not groups:
        raise ValueError("no scored rollouts to estimate from")
    rng = np.random.default_rng(seed)
    picks = rng.integers(len(groups), size=(RESAMPLES, len(groups)))
    means = np.take_along_axis(_resampled_problem_means(groups, rng), picks, axis=1).mean(axis=1)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    mean = float(np.mean([group.mean() for group in groups]))
    return Estimate(mean, float(low), float(high), len(groups), sum(map(len, groups)))


def paired_gain(parent: Scores, child: Scores, *, confidence: float, seed: int = 0) -> Gain:
    """Bootstrap child minus parent over the problems with scores of both.

    Each resample draws problems with replacement, the same for both sides, then rollouts
    within each problem and side.

    Raises:
        ValueError: fewer than two problems are common.
    """
    common = sorted(problem for problem in parent if parent[problem] and child.get(problem))
    if len(common) < 2:
        raise ValueError(f"a paired gain needs two problems in common, got {len(common)}")
    rng = np.random.default_rng(seed)
    picks = rng.integers(len(common), size=(RESAMPLES, len(common)))
    sides = [[np.asarray(side[problem], float) for problem in common] for side in (child, parent)]
    resampled = [_resampled_problem_means(groups, rng) for groups in sides]
    gains = np.take_along_axis(resampled[0] - resampled[1], picks, axis=1).mean(axis=1)
    mean = float(np.mean([c.mean() - p.mean() for c, p in zip(*sides, strict=True)]))
    bound, low, high = np.quantile(gains, [1 - confidence, (1 - confidence) / 2, (1 + confidence) / 2])
    return Gain(mean, float(bound), float(low), float(high), len(common))


def _resampled_problem_means(groups: list[NDArray[np.float64]], rng: np.random.Generator) -> NDArray[np.float64]:
    """Return the means of resampled rollouts, shape (RESAMPLES, problems).

    A problem drawn twice in one resample shares its rollout resample. This is slightly conservative, and gives one
    matrix instead of a ragged loop.
    """
    columns = [group[rng.integers(len(group), size=(RESAMPLES, len(group)))].mean(axis=1) for group in groups]
    return np.stack(columns, axis=1)
