"""Let long steps report their progress without knowing the listener."""

from dataclasses import dataclass
from typing import Final, Protocol

_MINUTES_FROM = 120.0


@dataclass(frozen=True)
class Wait:
    """A wait for a language model's reply."""

    label: str
    """Purpose of the request, such as `asking the agent`."""
    turn: int
    """Number of the awaited reply in its conversation, from 1."""
    tokens: int
    """Prompt and output tokens of the conversation so far, including a reply that streams in."""
    began: float
    """Start of the conversation, in seconds since the epoch."""

    def describe(self, now: float) -> str:
        """Label, turn, time since the conversation began, and tokens, in a line."""
        seconds = max(now - self.began, 0.0)
        lasted = f"{seconds:.0f} s" if seconds < _MINUTES_FROM else f"{seconds / 60:.1f} min"
        return f"{self.label}: turn {self.turn}, {lasted}, {self.tokens:,} tokens"


class Reporter(Protocol):
    """Receiver of progress. The command line draws progress; tests and workers drop it."""

    def progress(self, label: str, done: int, total: int) -> None:
        """`done` of `total` equal parts of the step called `label`; the step ends when they are equal."""

    def say(self, text: str) -> None:
        """One line worth keeping."""

    def waiting(self, wait: Wait | None) -> None:
        """The reply that is waited for now; None once there is no more waiting. A turn may be reported repeatedly."""


class Silent:
    """A reporter without a listener."""

    def progress(self, label: str, done: int, total: int) -> None:
        """See Reporter."""

    def say(self, text: str) -> None:
        """See Reporter."""

    def waiting(self, wait: Wait | None) -> None:
        """See Reporter."""


SILENT: Final[Reporter] = Silent()
