"""The metrics of Open Problems' denoising task, and the two that keep them honest.

All functions take cells x genes arrays of non-negative numbers. `train` and `test` are the two parts of a
molecular split; `denoised` is on the scale of `train`. Scaled figures are (none - x) / (none - perfect): 0 is
returning `train` as it is, 1 is returning `test`.

The published Poisson loss has its arguments swapped, mean(test - denoised * log(test)), and so rewards little
mass: it decides in the mode `openproblems_compat` alone. The loss used elsewhere is
mean(denoised - test * log(denoised)), the Poisson negative log likelihood up to a term of `test` alone.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[Any]
Matrix = npt.NDArray[np.float64]

TARGET = 1e4
"""Counts per cell after normalisation."""
EPSILON = 1e-6


@dataclass(frozen=True)
class Scaled:
    """Scaled figures of one denoised matrix; 1 is perfect, 0 is no denoising."""

    mse: float
    poisson: float
    published_poisson: float
    """Poisson figure with the arguments as published; for comparison with other reports only."""


def log_normalised(counts: Counts) -> Matrix:
    """log(1 + counts scaled to 1e4 a cell); a cell without counts stays 0."""
    totals = counts.sum(axis=1, keepdims=True, dtype=np.float64)
    normalised: Matrix = np.log1p(counts * (TARGET / np.where(totals > 0, totals, 1.0)))
    return normalised


def mse(test_log: Matrix, denoised: Counts) -> float:
    """Mean squared error over all entries after normalisation of both."""
    difference = log_normalised(denoised) - test_log
    return float(np.mean(difference * difference))


def poisson(test: Counts, predicted: Counts) -> float:
    """Poisson negative log likelihood of `test` per entry, up to a constant."""
    return float(np.mean(predicted - test * np.log(predicted + EPSILON)))


def published_poisson(test: Counts, predicted: Counts) -> float:
    """Compute the Poisson loss as published, with prediction and truth swapped."""
    return float(np.mean(test - predicted * np.log(test + EPSILON)))


class Reference:
    """The two ends of the scale for one split, computed once."""

    def __init__(self, train: Counts, test: Counts) -> None:
        self._test = test
        self._test_log = log_normalised(test)
        # Train holds nine molecules where test holds one: predictions are brought to test's depth.
        self._ratio = float(test.sum()) / float(train.sum())
        none = train * self._ratio
        self._mse_none = mse(self._test_log, train)
        self._poisson = (poisson(test, none), poisson(test, test))
        self._published = (published_poisson(test, none), published_poisson(test, test))

    def scaled(self, denoised: Matrix) -> Scaled:
        """Figures of a matrix on train's scale."""
        predicted = denoised * self._ratio
        return Scaled(
            mse=(self._mse_none - mse(self._test_log, denoised)) / self._mse_none,
            poisson=_scale(poisson(self._test, predicted), self._poisson),
            published_poisson=_scale(published_poisson(self._test, predicted), self._published),
        )


def _scale(value: float, ends: tuple[float, float]) -> float:
    none, perfect = ends
    return (none - value) / (none - perfect)


def mass_share(matrix: Counts) -> float:
    """Share of a cell's mass on its largest gene, mean over cells that have any."""
    totals = matrix.sum(axis=1, dtype=np.float64)
    filled = totals > 0
    return float(np.mean(matrix.max(axis=1)[filled] / totals[filled]))


def match_depth(denoised: Matrix, train: Counts) -> Matrix:
    """Rescale each cell to its total in train, so that total mass can buy nothing."""
    totals = denoised.sum(axis=1, keepdims=True)
    wanted = train.sum(axis=1, keepdims=True, dtype=np.float64)
    rescaled: Matrix = denoised * (wanted / np.where(totals > 0, totals, 1.0))
    return rescaled
