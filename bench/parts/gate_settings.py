"""Draw scores for the simulations of the gate: problems, rollouts, and distributions of scores."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ALPHA = 0.1
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Setting:
    """Problems and the distribution of their scores."""

    name: str
    problems: int
    rollouts: int
    kind: str


SETTINGS = (
    Setting("binary, solved by 0 to 90 %", 50, 4, "varied"),
    Setting("binary, all solved by 45 %", 50, 4, "hard"),
    Setting("binary, solved by 0 to 90 %", 12, 4, "varied"),
    Setting("binary, one rollout", 50, 1, "varied"),
    Setting("binary, one rollout", 12, 1, "varied"),
    Setting("continuous, normal", 50, 4, "normal"),
    Setting("continuous, normal", 12, 4, "normal"),
    Setting("continuous, skewed", 50, 4, "skewed"),
    Setting("continuous, skewed", 12, 4, "skewed"),
    Setting("continuous, normal", 8, 4, "normal"),
)


def draw(setting: Setting, rng: np.random.Generator, gains: Sequence[float]) -> list[Floats]:
    """Draw scores of candidates with these true gains on the same problems, each of shape (problems, rollouts)."""
    shape = (setting.problems, setting.rollouts)
    if setting.kind in ("varied", "hard"):
        rate = rng.uniform(0, 0.9, setting.problems) if setting.kind == "varied" else np.full(setting.problems, 0.45)
        return [(rng.random(shape) < (rate + gain)[:, None]).astype(float) for gain in gains]
    level = rng.uniform(0.2, 0.6, (setting.problems, 1))
    noise = {"normal": lambda: rng.normal(0, 0.25, shape), "skewed": lambda: 0.25 * rng.exponential(1, shape)}
    return [level + gain + noise[setting.kind]() for gain in gains]


def half_width(rate: float, count: int) -> float:
    """Return the binomial 95 % half-width."""
    return 1.96 * float(np.sqrt(max(rate * (1 - rate), 1e-9) / count))
