"""Compare logprobs of the frozen probe text (`Policy.probe`) between programs that hold one model. Loads no torch."""

from collections.abc import Sequence
from statistics import fmean
from typing import Final

Probe = Sequence[float]
"""Logprob of each token of the text except the first."""
MAX_GAP: Final = 0.05
"""Greatest mean difference between two programs that still counts as the same weights."""


def distance(first: Probe, second: Probe) -> float:
    """Mean absolute difference; infinite if the numbers of tokens differ."""
    if len(first) != len(second) or not first:
        return float("inf")
    return fmean(abs(one - other) for one, other in zip(first, second, strict=True))
