"""Both scores of a denoised matrix: `strict`, which decides, and `openproblems_compat`, for comparison.

*strict*, on every part of a problem: scaled mse, given only to matrices that denoise rather than please the metric.
Each cell is first rescaled to its train total, so that little mass buys nothing. Then two rules: the Poisson figure
must come near that of exact MAGIC on the same data (the mse alone rewards misplaced mass), and the share of a cell's
mass on its top gene must stay near train's (the mse rewards dumping a surplus on one gene). The score is the mean over
the parts; breaking a rule on one of them makes it 0.

*openproblems_compat*, on the public part: scaled mse and scaled Poisson exactly as published, nothing rescaled, the
Poisson's arguments swapped; the mse counts where the Poisson reaches 0.97. Besides, as everywhere here, a matrix has
to be finite and not negative.

Figures that depend on the problem alone are computed once a process.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from sia_core.domain.rollout import Verdict
from tasks.denoising.magic import magic
from tasks.denoising.metrics import Matrix, Reference, Scaled, mass_share, match_depth
from tasks.denoising.problems import KEPT, Mode, Recipe, matrices

POISSON_SHARE = 0.95
"""Least Poisson figure, as a share of MAGIC's."""
MASS_FACTOR = 2.0
"""Greatest top-gene mass share, as a multiple of train's."""
COMPAT_POISSON = 0.97
"""Least published Poisson figure in the mode `openproblems_compat`."""
NO_FIGURES = {"strict": 0.0, "compat": 0.0}


@dataclass(frozen=True)
class Bar:
    """References that a part measures answers against."""

    reference: Reference
    magic: Scaled
    mass_share: float
    """Mean share of a cell's mass on its top gene in train."""

    @property
    def least_poisson(self) -> float:
        """MAGIC's figure less 5 % of its size, so that the bar lies below it whatever its sign."""
        return self.magic.poisson - (1.0 - POISSON_SHARE) * abs(self.magic.poisson)

    @property
    def most_mass(self) -> float:
        """Greatest allowed mean share of a cell's mass on one gene."""
        return MASS_FACTOR * self.mass_share


@dataclass(frozen=True)
class Judged:
    """A matrix under the strict rules of one part."""

    broken: str
    """Rule that the matrix breaks, in words; empty where the matrix keeps all rules."""
    figures: dict[str, float]
    """Figures by name; empty where the matrix could not be measured."""

    @property
    def score(self) -> float:
        """Score within 0 and 1; 0 where a rule is broken."""
        return 0.0 if self.broken else min(max(self.figures["scaled_mse"], 0.0), 1.0)


@lru_cache(maxsize=KEPT)
def bar(recipe: Recipe) -> Bar:
    """References of one part."""
    split = matrices(recipe)
    reference = Reference(split.train, split.test)
    return Bar(reference, reference.scaled(magic(split.train)), mass_share(split.train))


def judge(recipe: Recipe, denoised: Matrix) -> Judged:
    """Strict rules on a finite, non-negative matrix of train's shape."""
    train = matrices(recipe).train
    wanted = train.sum(axis=1)
    empty = int(np.count_nonzero((denoised.max(axis=1) <= 0) & (wanted > 0)))
    if empty:
        return Judged(f"{empty} cells were left without any counts", {})
    with np.errstate(over="ignore", invalid="ignore"):
        rescaled = match_depth(denoised, train)
        # A total past the largest float would rescale its cell to nothing, one near the least to infinity.
        reached = np.isfinite(rescaled).all() and np.allclose(rescaled.sum(axis=1), wanted, rtol=1e-6)
    if not reached:
        return Judged("values too large or too small to be rescaled to the cells' train totals", {})
    bar_ = bar(recipe)
    found, share = bar_.reference.scaled(rescaled), mass_share(rescaled)
    figures = {
        "scaled_mse": found.mse,
        "scaled_poisson": found.poisson,
        "published_poisson": found.published_poisson,
        "mass_share": share,
        "train_mass_share": bar_.mass_share,
        "magic_mse": bar_.magic.mse,
        "magic_poisson": bar_.magic.poisson,
    }
    return Judged(_broken_rule(bar_, found, share), figures)


def _broken_rule(bar_: Bar, found: Scaled, share: float) -> str:
    if found.poisson < bar_.least_poisson:
        return f"Poisson rule: {found.poisson:.4f} is below {bar_.least_poisson:.4f} (0.95 of MAGIC's)"
    if share > bar_.most_mass:
        return f"mass rule: the top gene holds {share:.4f} of a cell, more than {bar_.most_mass:.4f} (twice train's)"
    return ""


def compat(recipe: Recipe, denoised: Matrix) -> dict[str, float]:
    """Published figures of a matrix as it is: `compat` is the score, 0 where the published gate is not passed."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        found = bar(recipe).reference.scaled(denoised)
    if not (math.isfinite(found.mse) and math.isfinite(found.published_poisson)):
        return {"compat": 0.0}
    passed = found.published_poisson >= COMPAT_POISSON
    score = min(max(found.mse, 0.0), 1.0) if passed else 0.0
    figures = {"compat_mse": found.mse, "compat_poisson": found.published_poisson, "compat_valid": float(passed)}
    return {"compat": score, **figures}


def verdict(judged: Sequence[Judged], published: dict[str, float], mode: Mode, fault: str = "") -> Verdict:
    """One verdict of all parts that were looked at, the public one first.

    Args:
        judged: as many parts as were run; the last one may have broken a rule.
        published: of `compat`, on the public part; NO_FIGURES where there is no matrix.
        fault: why there is no matrix of the next part.
    """
    broken = fault or judged[-1].broken
    where = ("", "hidden second split: ", "hidden second data set: ")[len(judged) - (not fault)]
    strict = 0.0 if broken else sum(one.score for one in judged) / len(judged)
    metrics = {**published, "strict": strict}
    for name, one in zip(("", "again_", "other_"), judged, strict=False):
        metrics |= {f"{name}{figure}": value for figure, value in one.figures.items()}
    said = f"invalid; {where}{broken}" if broken else _praise(judged, strict)
    if mode == "strict":
        return Verdict(strict, valid=not broken, metrics=metrics, feedback=said)
    passed = bool(published.get("compat_valid"))
    return Verdict(published["compat"], valid=passed, metrics=metrics, feedback=_published(published, passed, said))


def _praise(judged: Sequence[Judged], strict: float) -> str:
    names = ("on X", "on a hidden second split", "on a hidden second data set")
    each = [
        f"{name} {one.figures['scaled_mse']:.4f} (MAGIC {one.figures['magic_mse']:.4f})"
        for name, one in zip(names, judged, strict=False)
    ]
    poisson = judged[0].figures["scaled_poisson"]
    return f"valid; score {strict:.4f}; scaled mse {', '.join(each)}; Poisson on X {poisson:.4f}"


def _published(published: dict[str, float], passed: bool, strict: str) -> str:
    if "compat_mse" not in published:
        return f"openproblems_compat: {strict}"
    gate = f"Poisson {published['compat_poisson']:.4f}, which has to reach {COMPAT_POISSON}"
    head = "valid" if passed else "invalid"
    return f"openproblems_compat: {head}; scaled mse {published['compat_mse']:.4f}, {gate}. strict: {strict}"


def invalid(feedback: str) -> Verdict:
    """A verdict of 0 on what is no program."""
    return Verdict(0.0, valid=False, metrics=dict(NO_FIGURES), feedback=f"invalid; {feedback}")
