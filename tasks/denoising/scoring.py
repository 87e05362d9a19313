"""The `strict` score: scaled mse, given only to matrices that denoise rather than please the metric.

Each cell is first rescaled to its train total, so that little mass buys nothing. Then two rules: the Poisson
figure must come near that of exact MAGIC on the same data (the mse alone rewards misplaced mass), and the
share of a cell's mass on its top gene must stay near train's (the mse rewards dumping a surplus on one gene).
Figures that depend on the problem alone are computed once a process.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from sia_core.rollout import Verdict
from tasks.denoising.magic import magic
from tasks.denoising.metrics import Matrix, Reference, Scaled, mass_share, match_depth
from tasks.denoising.problems import Recipe, matrices

POISSON_SHARE = 0.95
"""Least Poisson figure, as a share of MAGIC's."""
MASS_FACTOR = 2.0
"""Greatest top-gene mass share, as a multiple of train's."""
_KEPT = 32


@dataclass(frozen=True)
class Bar:
    """What a problem measures answers against."""

    reference: Reference
    magic: Scaled
    mass_share: float
    """Of train."""

    @property
    def least_poisson(self) -> float:
        """MAGIC's figure less 5 % of its size, so that the bar lies below it whatever its sign."""
        return self.magic.poisson - (1.0 - POISSON_SHARE) * abs(self.magic.poisson)

    @property
    def most_mass(self) -> float:
        """Greatest allowed mean share of a cell's mass on one gene."""
        return MASS_FACTOR * self.mass_share


@lru_cache(maxsize=_KEPT)
def bar(recipe: Recipe) -> Bar:
    """References of one problem."""
    split = matrices(recipe)
    reference = Reference(split.train, split.test)
    return Bar(reference, reference.scaled(magic(split.train)), mass_share(split.train))


def score(recipe: Recipe, denoised: Matrix) -> Verdict:
    """Verdict on a finite, non-negative matrix of train's shape."""
    train = matrices(recipe).train
    wanted = train.sum(axis=1)
    empty = int(np.count_nonzero((denoised.max(axis=1) <= 0) & (wanted > 0)))
    if empty:
        return invalid(f"{empty} cells were left without any counts")
    with np.errstate(over="ignore", invalid="ignore"):
        rescaled = match_depth(denoised, train)
        # A total past the largest float would rescale its cell to nothing, one near the least to infinity.
        reached = np.isfinite(rescaled).all() and np.allclose(rescaled.sum(axis=1), wanted, rtol=1e-6)
    if not reached:
        return invalid("values too large or too small to be rescaled to the cells' train totals")
    return _judge(bar(recipe), rescaled)


def _judge(bar_: Bar, rescaled: Matrix) -> Verdict:
    found, share = bar_.reference.scaled(rescaled), mass_share(rescaled)
    metrics = {
        "scaled_mse": found.mse,
        "scaled_poisson": found.poisson,
        "published_poisson": found.published_poisson,
        "mass_share": share,
        "train_mass_share": bar_.mass_share,
        "magic_mse": bar_.magic.mse,
        "magic_poisson": bar_.magic.poisson,
    }
    broken = _broken_rule(bar_, found, share)
    if broken:
        return invalid(broken, metrics)
    value = min(max(found.mse, 0.0), 1.0)
    said = f"valid; scaled mse {found.mse:.4f} (MAGIC {bar_.magic.mse:.4f}), Poisson {found.poisson:.4f}"
    return Verdict(value, metrics=metrics, feedback=said)


def _broken_rule(bar_: Bar, found: Scaled, share: float) -> str:
    if found.poisson < bar_.least_poisson:
        return f"Poisson rule: {found.poisson:.4f} is below {bar_.least_poisson:.4f} (0.95 of MAGIC's)"
    if share > bar_.most_mass:
        return f"mass rule: the top gene holds {share:.4f} of a cell, more than {bar_.most_mass:.4f} (twice train's)"
    return ""


def invalid(feedback: str, metrics: dict[str, float] | None = None) -> Verdict:
    """A verdict of 0 that names the rule."""
    return Verdict(0.0, valid=False, metrics=metrics or {}, feedback=f"invalid; {feedback}")
