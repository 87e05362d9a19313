"""A clock for tests of waiting: it advances only when a schedule sleeps."""

from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from sia_core.host.retrying import Schedule

S = TypeVar("S", bound=Schedule)


@dataclass
class Clock:
    """Time that passes by sleeping."""

    now: float = 0.0
    slept: list[float] = field(default_factory=list)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def drive(self, schedule: S, **limits: Any) -> S:
        """Return the schedule with this clock, the longest pause of each draw, and other limits."""
        kept = {"uniform": lambda _, most: most, **limits}
        return replace(schedule, clock=lambda: self.now, sleep=self.sleep, **kept)
