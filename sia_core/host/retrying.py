"""Call again what may succeed later: the one retry loop, run by tenacity.

Pauses double up to a bound and are random (Brooker, "Exponential Backoff and Jitter", AWS 2015), so that waiting
processes do not call all at the same moment. What may be repeated safely is the caller's business.
"""

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception

T = TypeVar("T")


@dataclass(frozen=True)
class Schedule:
    """Number of attempts, pauses between them, and the time of the last one."""

    attempts: int | None = None
    """Most attempts; None for as many as the time allows."""
    first_s: float = 0.5
    """Longest first pause in seconds; each further pause may be twice as long."""
    longest_s: float = 30.0
    """Longest pause in seconds, asked for by a server or not."""
    jitter: float = 1.0
    """Random share of a pause: 1 draws from [0, pause], 0 waits for exactly the pause."""
    total_s: float = math.inf
    """No attempt begins later than this many seconds after the first failure."""
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    uniform: Callable[[float, float], float] = random.uniform

    def run(
        self,
        call: Callable[[], T],
        again: Callable[[Exception], bool],
        *,
        asked_s: Callable[[Exception], float | None] = lambda _: None,
        deadline: float | None = None,
        on_pause: Callable[[int, Exception], None] = lambda *_: None,
    ) -> T:
        """Return the result of `call`.

        Args:
            again: tells an error that may pass.
            asked_s: pause in seconds that the server asked for; None for this schedule's own.
            deadline: latest time of an attempt by `clock`, instead of `total_s` after the first failure.
            on_pause: is called with the number of the failed attempt and its error before each pause.

        Raises:
            Exception: the error of the last attempt, or the first one that cannot pass.
        """

        def pause(state: RetryCallState) -> float:
            asked = asked_s(_error(state))
            return self._pause(state.attempt_number) if asked is None else min(asked, self.longest_s)

        def ends(state: RetryCallState) -> bool:
            nonlocal deadline
            deadline = self.clock() + self.total_s if deadline is None else deadline
            used_up = self.attempts is not None and state.attempt_number >= self.attempts
            return used_up or self.clock() + state.upcoming_sleep > deadline

        return Retrying(
            retry=retry_if_exception(lambda error: isinstance(error, Exception) and again(error)),
            wait=pause,
            stop=ends,
            before_sleep=lambda state: on_pause(state.attempt_number, _error(state)),
            sleep=self.sleep,
            reraise=True,
        )(call)

    def _pause(self, attempt: int) -> float:
        most = min(self.first_s * 2.0 ** min(attempt - 1, 30), self.longest_s)
        return self.uniform((1.0 - self.jitter) * most, most) if self.jitter else most


def _error(state: RetryCallState) -> Exception:
    error = state.outcome.exception() if state.outcome else None
    assert isinstance(error, Exception)
    return error
