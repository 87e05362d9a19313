"""From samples to a verdict under both modes.

`compat` is the published rule: calls with a mask of ones, 0.02 + 0.02 |reference|. `strict` also takes the calls
with real masks and the checks at unknown shapes, and holds every result to a budget of relative error. Score and
validity are strict's; the figures of both stand in the metrics. What was measured (cuda: reward, 1500 over
microseconds; cpu: speed-up over the naive loop, since microseconds of two machines do not compare) is a mean a case
and a geometric mean over cases; the speed-up is one of medians, which a busy neighbour moves less. Nothing is clipped
at 1.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from sia_core.domain.rollout import Verdict
from tasks.trimul.measure import Measured, Sample, over
from tasks.trimul.roofline import floor_s
from tasks.trimul.settings import settings
from tasks.trimul.shapes import Case, Recipe

REWARD = 1500.0
"""Numerator of the competition's reward, whose denominator is microseconds."""
TOP = 64.0
"""Top of the declared range; only a time far below any roofline could exceed it."""


@dataclass(frozen=True)
class Mode:
    """One set of rules over the samples it looks at."""

    name: str
    samples: tuple[Sample, ...]
    budget: float = math.inf

    @property
    def broken(self) -> str:
        """The first rule that a sample breaks; empty when none does."""
        for sample in self.samples:
            where = f"{sample.call.case.shape.label}, mask {'0/1' if sample.call.masked else 'ones'}"
            if sample.error.tolerance_used > 1.0:
                return f"wrong result ({where}): {sample.error.tolerance_used:.3g} times the tolerance"
            if sample.error.relative_rms > self.budget:
                found = f"{sample.error.relative_rms:.2g}, budget {self.budget:g}"
                return f"precision ({where}): relative error {found}; compute in float32"
        return "" if self.samples else "nothing was measured"

    def seconds(self, case: Case) -> float:
        """Mean of the timed calls of a case."""
        return over([sample for sample in self.samples if _of(sample, case)], lambda sample: sample.seconds)

    def metrics(self, cases: Iterable[Case]) -> dict[str, float]:
        """Validity, and the geometric mean where it is valid."""
        valid = not self.broken
        found = {f"{self.name}_valid": float(valid), f"{self.name}_reward": 0.0}
        if valid:
            microseconds = 1e6 * geometric(self.seconds(case) for case in cases)
            found |= {f"{self.name}_us": microseconds, f"{self.name}_reward": REWARD / microseconds}
        return found


def judge(measured: Measured, recipe: Recipe) -> Verdict:
    """The verdict on what was measured."""
    if measured.broken:
        return invalid(measured.broken, {"strict_valid": 0.0, "compat_valid": 0.0})
    samples = tuple(measured.samples)
    cases = list(dict.fromkeys(recipe.cases))
    compat = Mode("compat", tuple(s for s in samples if s.call.timed and not s.call.masked))
    strict = Mode("strict", samples, float(settings()[f"budget_{recipe.device}"]))
    metrics = {**compat.metrics(cases), **strict.metrics(cases), **table(samples, cases, recipe)}
    if strict.broken:
        return invalid(strict.broken, metrics)
    score = metrics["strict_reward"] if recipe.device == "cuda" else geometric(_speed_up(strict, c) for c in cases)
    said = f"valid; {metrics['strict_us']:.0f} us, {score:.3f} "
    said += "reward" if recipe.device == "cuda" else "times as fast as the naive loop"
    return Verdict(min(score, TOP), metrics=metrics, feedback=f"{said}; {_lines(strict, cases, recipe)}")


def table(samples: Iterable[Sample], cases: list[Case], recipe: Recipe) -> dict[str, float]:
    """Every sample by case, with the floor; the greatest use of tolerance and budget over all."""
    samples = list(samples)
    found = {
        "tolerance_used": max(sample.error.tolerance_used for sample in samples),
        "relative_error": max(sample.error.relative_rms for sample in samples),
    }
    for index, case in enumerate(cases):
        own = [sample for sample in samples if _of(sample, case)]
        found[f"case{index}_n"] = float(case.shape.n)
        found[f"case{index}_floor_us"] = 1e6 * floor_s(case.shape, recipe.device)
        for number, sample in enumerate(own):
            found[f"case{index}_us_{number}"] = 1e6 * sample.seconds
            if sample.naive_s is not None:
                found[f"case{index}_naive_us_{number}"] = 1e6 * sample.naive_s
    return found


def geometric(values: Iterable[float]) -> float:
    """Geometric mean."""
    return float(np.exp(np.mean(np.log(list(values)))))


def invalid(feedback: str, metrics: dict[str, float] | None = None) -> Verdict:
    """A verdict of 0 that names the rule."""
    return Verdict(0.0, valid=False, metrics=metrics or {}, feedback=f"invalid; {feedback}")


def _of(sample: Sample, case: Case) -> bool:
    return sample.call.timed and sample.call.case == case


def _speed_up(mode: Mode, case: Case) -> float:
    own = [sample for sample in mode.samples if _of(sample, case)]
    return over(own, lambda s: s.naive_s, np.median) / over(own, lambda s: s.seconds, np.median)


def _lines(mode: Mode, cases: list[Case], recipe: Recipe) -> str:
    return "; ".join(
        f"{case.shape.label}: {1e6 * mode.seconds(case):.0f} us (floor {1e6 * floor_s(case.shape, recipe.device):.0f})"
        for case in cases
    )
