"""Define the interface of a jail, which runs your command in its own directory, watched from outside.

`engine.jail` implements it for agents.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

WORK = "/sia/work"
"""Path of the command's directory inside the jail."""
HOME = "/sia/home"
GIVEN = "/sia/given"
"""Path of a read-only directory inside the jail."""

Killer = Literal["time", "disk", "memory"]


@dataclass(frozen=True)
class Errand:
    """A command to run in the jail."""

    command: tuple[str, ...]
    work: Path
    """Writable working directory, seen as WORK."""
    home: Path
    """Writable directory, seen as HOME."""
    given: Path
    """Read-only directory, seen as GIVEN."""
    stdin: bytes = b""
    environment: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 3600.0
    """Wall clock after which everything in the jail is killed."""


@dataclass(frozen=True)
class Ended:
    """End of a command, when nothing that it started is alive."""

    code: int
    """Exit code; negative for a signal."""
    killed_for: Killer | None
    """Limit for which the jail killed the command."""
    stdout: str
    """Last part of the output, as for `stderr`."""
    stderr: str
    seconds: float


class Jail(Protocol):
    """Runner of commands that see their own directories and nothing else of this machine."""

    def own(self, *folders: Path) -> None:
        """Give directories, with all that is in them, to the user that commands run as."""

    def run(self, errand: Errand, meanwhile: Callable[[], None]) -> Ended:
        """Run a command to its end, and call `meanwhile` repeatedly in this thread.

        Raises:
            SandboxError: no jail is available.
        """

    def remove(self, folder: Path) -> None:
        """Remove a directory with everything that a command left there. Idempotent."""
