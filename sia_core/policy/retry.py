"""The one retry loop of all policies behind a server: bounded in attempts and in time.

Waiting is exponential with full jitter (Brooker, "Exponential Backoff and Jitter", AWS 2015), or as
long as the server asks for, within bounds.
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
    """Error of one attempt, in our words."""

    error: SiaError
    again: bool = False
    """True if another attempt may succeed."""
    after_s: float | None = None
    """Seconds that the server asks to wait."""
    paid: bool = False
    """True if the server may have made, and may charge for, a reply that did not arrive."""


@dataclass(frozen=True)
class Patience:
    """How long a request may take, all attempts together."""

    attempts: int = 6
    first_s: float = 0.5
    """Mean of the first wait is half of this; it doubles with each."""
    longest_s: float = 30.0
    """Upper bound of each wait, asked for by the server or not."""
    timeout_s: float = 300.0
    """Seconds that the server may send nothing during one attempt."""
    total_s: float = 900.0
    """No attempt begins later than this."""
    repeats: int | None = None
    """Repeats of a request that may have been paid for; None: it is retried as any other."""

    @property
    def careful(self) -> bool:
        """True if requests that may have been paid for are repeated less than others."""
        return self.repeats is not None

    @classmethod
    def of_agent(cls, silence_s: float) -> Self:
        """For long replies: each attempt has the whole limit of silence, and a reply is paid for twice at most."""
        return cls(timeout_s=silence_s, total_s=math.inf, repeats=1)


@dataclass(frozen=True)
class Retry:
    """Calls until it goes well, or patience ends."""

    patience: Patience = Patience()
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    uniform: Callable[[float, float], float] = field(default_factory=lambda: random.Random().uniform)

    def run(self, call: Callable[[float], T], judge: Callable[[Exception], Fault | None]) -> T:
        """The result of `call(timeout)`.

        Args:
            judge: what an exception means; None for one that is to be raised as it is.

        Raises:
            SiaError: of the last fault. It carries no context: an SDK's exception holds the request,
                and with it the key.
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
    """Seconds that a Retry-After header asks for: a number, or a date (RFC 9110, 10.2.3). None if it says nothing.

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
