"""The ceilings of one rollout, checked before anything is forwarded."""

import threading
from collections.abc import Mapping

from sia_core.policy.choice import ATTEMPTS, room_for
from sia_core.policy.dialect import THINKING
from sia_core.policy.protocol import Request, most_tokens


class RefusedError(Exception):
    """A request that is answered with an error instead of being forwarded.

    `kind`: `budget` (a ceiling is reached), `request` (malformed, or not supported by the policy),
    `endpoint` (the rollout is lost, not by a fault of the harness).
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class RolloutBudget:
    """Counts down calls, tokens and runs. Thread-safe."""

    def __init__(self, limits: Mapping[str, int]) -> None:
        self._left = dict(limits)
        self._reserved = 0
        self._changed = threading.Condition()
        self.taken = 0
        """Number of successful calls of `take`."""
        self.exceeded = False
        """True if a request was refused for lack of budget."""

    @property
    def left(self) -> dict[str, int]:
        """Remainder of each ceiling, for the harness to read."""
        with self._changed:
            return dict(self._left)

    def take(self, what: str, count: int = 1) -> None:
        """Take `count` of a ceiling, all or nothing.

        Raises:
            RefusedError: not enough is left.
        """
        with self._changed:
            if self._left[what] < count:
                self._refuse(f"{self._left[what] or 'no'} {what} left for this rollout, {count} asked for")
            self._left[what] -= count
            self.taken += 1

    def reserve(self, need: int, wish: int = 0) -> int:
        """Reserve tokens for one request; return their number, at most `need`, or `wish` if that is more.

        Waits for `need` tokens while requests in flight may still return some.

        Raises:
            RefusedError: no tokens are left.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._reserved == 0 or self._left["tokens"] - self._reserved >= need)
            granted = min(max(need, wish), self._left["tokens"] - self._reserved)
            if granted <= 0:
                self._refuse("no tokens left for this rollout")
            self._reserved += granted
            return granted

    def settle(self, granted: int, used: int) -> None:
        """Return a reservation and pay for the tokens of prompt and output."""
        with self._changed:
            self._reserved -= granted
            self._left["tokens"] = max(0, self._left["tokens"] - used)
            self._changed.notify_all()

    def _refuse(self, message: str) -> None:
        self.exceeded = True
        raise RefusedError("budget", message)


def needs(request: Request, *, exact: bool) -> tuple[int, int]:
    """Return the tokens that prompt and reply may take, and those of all attempts at a choice.

    Args:
        exact: True for a policy that chooses in one attempt, by the logits of its model.
    """
    room = request.sampling.max_tokens
    if not request.options:
        return most_tokens(request) + room, 0
    need = most_tokens(request) + room_for(request.options, room)
    return need, 0 if exact else ATTEMPTS * need + THINKING
