"""What untrusted code may use, and what comes back from running it.

`Lab` is the only door through which a verifier executes code that a model wrote. The
engine's sandbox backends implement it; nothing here can run anything.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

SandboxStatus = Literal["ok", "error", "timeout", "memory", "disk", "output", "infrastructure"]
"""`ok`: exit code 0. `infrastructure`: the sandbox failed, not the code; never a score of 0."""


@dataclass(frozen=True)
class Limits:
    """Ceilings for one program. Passing one ends the program, never the machine."""

    wall_s: float = 60.0
    """Wall clock, enforced from outside."""
    cpu_s: float = 60.0
    """CPU seconds over all threads."""
    memory_mb: int = 1024
    """Address space."""
    disk_mb: int = 64
    """Private working directory."""
    output_kb: int = 256
    """Standard output and standard error, each."""
    files_mb: int = 64
    """All collected files together."""
    subprocesses: bool = False
    """Whether the program may fork and run other programs: at most 32 processes and threads.

    Weaker: `memory_mb` and `cpu_s` hold for all processes together only by a watch from outside, so
    they may be passed for some tens of milliseconds; each process alone is held by the kernel. There is
    more of the kernel to attack, and every program of the system can be run. All else stays as it is.
    """


@dataclass(frozen=True)
class SandboxResult:
    """What one program left behind. Bytes only: nothing is unpickled or imported."""

    status: SandboxStatus
    reason: str = ""
    """One line for `status` other than ok."""
    stdout: str = ""
    stderr: str = ""
    files: Mapping[str, bytes] = field(default_factory=dict)
    """Collected regular files by the name they were asked for; missing ones are absent."""
    wall_s: float = 0.0
    cpu_s: float = 0.0


class Lab(Protocol):
    """Runs untrusted programs for the verifier."""

    def run(
        self, files: Mapping[str, bytes], limits: Limits, *, entry: str = "main.py", collect: Sequence[str] = ()
    ) -> SandboxResult:
        """Run `entry` in an empty directory holding `files`; return the files named in `collect`."""
        ...
