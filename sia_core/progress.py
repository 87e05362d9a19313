"""How long steps tell a person where they are, without knowing who listens."""

from typing import Protocol


class Reporter(Protocol):
    """Receives progress. The command line draws it; tests and workers drop it."""

    def progress(self, label: str, done: int, total: int) -> None:
        """`done` of `total` equal parts of the step called `label`; the step ends when they are equal."""
        ...

    def say(self, text: str) -> None:
        """One line worth keeping."""
        ...


class Silent:
    """A reporter nobody listens to."""

    def progress(self, label: str, done: int, total: int) -> None:
        """See Reporter."""

    def say(self, text: str) -> None:
        """See Reporter."""
