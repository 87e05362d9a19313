"""One result against the reference, in float64: the published tolerance, and a budget that sees precision.

The published rule, |error| <= 0.02 + 0.02 |reference| everywhere, is wide enough for bfloat16. The second
figure is the root mean square of the error over that of the reference.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

_ROWS = 1 << 22


@dataclass(frozen=True)
class Error:
    """How far off a result is."""

    tolerance_used: float
    """Greatest |error| / (atol + rtol |reference|); above 1 breaks the published rule."""
    relative_rms: float
    not_finite: int


def compare(result: npt.NDArray[Any], reference: npt.NDArray[Any], tolerance: float) -> Error:
    """Both of one shape. Blocks keep the float64 copies small."""
    found, wanted = result.ravel(), reference.ravel()
    used = error_squares = squares = 0.0
    bad = int(found.size - np.count_nonzero(np.isfinite(found)))
    for start in range(0, 0 if bad else found.size, _ROWS):
        right = wanted[start : start + _ROWS].astype(np.float64)
        error = found[start : start + _ROWS].astype(np.float64) - right
        used = max(used, float(np.max(np.abs(error) / (tolerance + tolerance * np.abs(right)))))
        error_squares += float(error @ error)
        squares += float(right @ right)
    return Error(used, (error_squares / squares) ** 0.5 if squares else 0.0, bad)
