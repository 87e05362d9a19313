"""Retry requests to a model's server: bounded in attempts, in time, and in replies that may have been paid for."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Self, TypeVar

from sia_core.domain.errors import SiaError
from sia_core.host.retrying import Schedule

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
class Retry(Schedule):
    """How long a request may take, all attempts together."""

    attempts: int | None = 6
    total_s: float = 900.0
    """No attempt begins later than this many seconds after the first one."""
    timeout_s: float = 300.0
    """Seconds that the server may send nothing during one attempt."""
    repeats: int | None = None
    """Maximum repeats of a request that may have been paid for; None for the limits of any other."""

    @property
    def careful(self) -> bool:
        """True if repeats of requests that may have been paid for are limited."""
        return self.repeats is not None

    @classmethod
    def of_agent(cls, silence_s: float, sleep: Callable[[float], None] = time.sleep) -> Self:
        """For long replies: each attempt has the whole limit of silence, and a reply is paid for twice at most."""
        return cls(timeout_s=silence_s, total_s=math.inf, repeats=1, sleep=sleep)

    def request(self, call: Callable[[float], T], judge: Callable[[Exception], Fault | None]) -> T:
        """Return the result of `call(timeout)`.

        Args:
            judge: classifies an exception; None for one that is to be raised as it is.

        Raises:
            SiaError: error of the last fault, without context: an SDK's exception holds the request, and so the key.
        """
        deadline = self.clock() + self.total_s
        paid = 0

        def attempt() -> T:
            try:
                return call(max(min(self.timeout_s, deadline - self.clock()), 0.001))
            except Exception as error:
                fault = judge(error)
                if fault is None:
                    raise
            raise _FailedError(fault)

        def again(error: Exception) -> bool:
            nonlocal paid
            if not isinstance(error, _FailedError):
                return False
            paid += error.fault.paid
            return error.fault.again and (self.repeats is None or paid <= self.repeats)

        try:
            return self.run(attempt, again, asked_s=_asked_s, deadline=deadline)
        except _FailedError as failed:
            last = failed.fault.error
        raise last


class _FailedError(Exception):
    def __init__(self, fault: Fault) -> None:
        super().__init__(str(fault.error))
        self.fault = fault


def _asked_s(error: Exception) -> float | None:
    return error.fault.after_s if isinstance(error, _FailedError) else None


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
