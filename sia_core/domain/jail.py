"""The interface of a jail: a command of the user's runs in it, on a directory of its own, watched from outside.

`engine.jail` builds it; agents are handed one.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

WORK = "/sia/work"
"""Directory of the command, as the command sees the path."""
HOME = "/sia/home"
GIVEN = "/sia/given"
"""Directory that the command may read and never write, as the command sees the path."""

Killer = Literal["time", "disk", "memory"]


@dataclass(frozen=True)
class Errand:
    """One start of a command."""

    command: tuple[str, ...]
    work: Path
    """Seen as WORK, writable, and the working directory."""
    home: Path
    """Seen as HOME, writable."""
    given: Path
    """Seen as GIVEN, read-only."""
    stdin: bytes = b""
    environment: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 3600.0
    """Wall clock; then everything in the jail is killed."""


@dataclass(frozen=True)
class Ended:
    """The end of a command: nothing that it started is alive any more."""

    code: int
    """Exit code; negative for a signal."""
    killed_for: Killer | None
    """The limit for which the jail killed it."""
    stdout: str
    """The end of it, as of `stderr`."""
    stderr: str
    seconds: float


class Jail(Protocol):
    """Runs commands that see their own directories and nothing else of this machine."""

    def own(self, *folders: Path) -> None:
        """Give directories, with all that is in them, to the user that commands run as."""

    def run(self, errand: Errand, meanwhile: Callable[[], None]) -> Ended:
        """Run a command to its end, calling `meanwhile` again and again in this thread.

        Raises:
            SandboxError: the jail cannot be had.
        """

    def remove(self, folder: Path) -> None:
        """Remove a directory, whatever a command left in it. Idempotent."""
