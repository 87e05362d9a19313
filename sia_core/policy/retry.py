"""The one retry loop of all policies behind a server: bounded in attempts and in time.

Waits are exponential with full jitter (Brooker, "Exponential Backoff and Jitter", AWS 2015), or as requested by the
server, within bounds.
"""

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from itertools import count
from typing import Self, TypeVar

from sia_core.domain.errors import SiaError

T = TypeVar("T")


@dataclass(frozen=True)
class Fault:
    """Error of one attempt, as an error of SIA."""

    error: SiaError
    again: bool = False
    """True if another attempt may succeed."""
    after_s: float | None = None
    """Seconds that the server asks to wait."""
    paid: bool = False
    """True if the server may have made, and may charge for, a reply that did not arrive."""


@dataclass(frozen=True)
class Patience:
    """Limits of a request over all attempts."""

    attempts: int = 6
    first_s: float = 0.5
    """Upper bound of the first wait, doubled at each further wait."""
    longest_s: float = 30.0
    """Upper bound of each wait, also of those that the server requests."""
    timeout_s: float = 300.0
    """Seconds that the server may send nothing during one attempt."""
    total_s: float = 900.0
    """Seconds after which no attempt begins."""
    repeats: int | None = None
    """Maximum repeats of a request that may have been paid for; None for the limits of any other."""

    @property
    def careful(self) -> bool:
        """True if repeats of requests that may have been paid for are limited."""
        return self.repeats is not None

    @classmethod
    def of_agent(cls, silence_s: float) -> Self:
        """Limits for long replies: the full silence limit for each attempt, and a reply paid for twice at most."""
        return cls(timeout_s=silence_s, total_s=math.inf, repeats=1)


@dataclass(frozen=True)
class Retry:
    """Retries a call within limits."""

    patience: Patience = Patience()
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    uniform: Callable[[float, float], float] = field(default_factory=lambda: random.Random().uniform)

    def run(self, call: Callable[[float], T], judge: Callable[[Exception], Fault | None]) -> T:
        """Return the result of `call(timeout)`.

        Args:
            judge: function that returns the fault of an exception, or None to raise the exception unchanged.

        Raises:
            SiaError: error of the last fault, without context: an SDK's exception holds the request, and so the key.
        """
        deadline = self.clock() + self.patience.total_s
        paid = 0
        for attempt in count(1):
            try:
                return call(max(min(self.patience.timeout_s, deadline - self.clock()), 0.001))
            except Exception as error:
                fault = judge(error)
                if fault is None:
                    raise
            paid += fault.paid
            if not fault.again or attempt >= self.patience.attempts or self._paid_enough(paid):
                raise fault.error
            wait = self._wait(attempt, fault.after_s)
            if self.clock() + wait >= deadline:
                raise fault.error
            self.sleep(wait)
        raise AssertionError("count() does not end")

    def _paid_enough(self, times: int) -> bool:
        return self.patience.repeats is not None and times > self.patience.repeats

    def _wait(self, attempt: int, after_s: float | None) -> float:
        if after_s is not None:
            return min(after_s, self.patience.longest_s)
        return self.uniform(0.0, min(self.patience.first_s * 2.0 ** (attempt - 1), self.patience.longest_s))


def parse_retry_after(text: str | None, now: float) -> float | None:
    """Parse a Retry-After header, a number or a date (RFC 9110, 10.2.3), to seconds; None if there is no valid one.

    Args:
        now: seconds since the epoch.
    """
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(text).timestamp() - now
        except ValueError:
            return None
    return None if math.isnan(seconds) else max(seconds, 0.0)
