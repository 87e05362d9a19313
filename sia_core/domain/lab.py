"""Define limits for untrusted code, and the result of running it.

A verifier executes code of a model only through `Lab`, which the engine's sandbox backends implement. This module can
run nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, Self

SandboxStatus = Literal["ok", "error", "timeout", "memory", "disk", "output", "infrastructure"]
"""`ok` is exit code 0; `infrastructure` means that the sandbox failed, not the code, and is never a score of 0."""


@dataclass(frozen=True)
class Limits:
    """Limits of one program; a program that exceeds one is ended."""

    wall_s: float = 60.0
    """Wall clock in seconds, enforced from outside."""
    cpu_s: float = 60.0
    """CPU seconds over all threads."""
    memory_mb: int = 1024
    """Address space in MB."""
    disk_mb: int = 64
    """Size of the private working directory in MB."""
    output_kb: int = 256
    """Size of standard output and of standard error, each, in KB."""
    files_mb: int = 64
    """Size of all collected files together, in MB."""
    subprocesses: bool = False
    """True if the program may fork and run other programs: at most 32 processes and threads.

    This weakens the sandbox: `memory_mb` and `cpu_s` for all processes together are only watched from outside, so they
    may be exceeded for some tens of milliseconds; the kernel still limits each process alone. The program can also
    reach more of the kernel and run every program of the system. All other limits stay.
    """
    native: bool = False
    """True if the program may load machine code from its directory, such as a compiler's output of an earlier run."""


@dataclass(frozen=True)
class SandboxResult:
    """Output and files of a program. Files are bytes, and nothing is unpickled or imported."""

    status: SandboxStatus
    reason: str = ""
    """Reason for a `status` other than ok, in one line."""
    stdout: str = ""
    stderr: str = ""
    files: Mapping[str, bytes] = field(default_factory=dict)
    """Collected regular files by requested name, without missing ones."""
    wall_s: float = 0.0
    cpu_s: float = 0.0


class ProgramEndedError(Exception):
    """A session ended early by the program's own fault."""

    def __init__(self, status: SandboxStatus, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        """Reason in one line, which may quote the program's output."""


class LiveProgram(Protocol):
    """A program that stays alive and is given one piece of work after the other.

    The program finds a stream, whose descriptor is in the environment variable SIA_STREAM, and as its standard input
    the shared memory to map. Frames on the stream are a length (4 bytes, big-endian) and that many bytes. Every method
    may raise ProgramEndedError; the program is then dead.
    """

    @property
    def memory(self) -> memoryview:
        """The shared memory: bytes that both sides read and write at any time, of a size neither can change."""

    def send(self, data: bytes) -> None:
        """Send one frame."""

    def recv(self, limit: int, timeout_s: float) -> bytes:
        """The next frame. One above `limit` bytes, or none in time, ends the program."""

    def cpu_s(self) -> float:
        """Return the CPU seconds of the program's process so far, over all threads, by a clock that it cannot touch.

        With `Limits.subprocesses`, and in tier none, descendants count too: living ones exactly, those it waited for in
        steps of the kernel's tick (10 ms), and those that ended without being waited for not at all.
        """

    def close(self) -> SandboxResult:
        """End the program, if it has not ended. Idempotent."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...


class Lab(Protocol):
    """Runner of untrusted programs for the verifier."""

    def run(
        self, files: Mapping[str, bytes], limits: Limits, *, entry: str = "main.py", collect: Sequence[str] = ()
    ) -> SandboxResult:
        """Run `entry` in an empty directory holding `files`; return the files named in `collect`."""


class LiveProgramLab(Lab, Protocol):
    """A lab that can also keep programs running; each verifier is given such a lab."""

    def open(
        self,
        files: Mapping[str, bytes],
        limits: Limits,
        *,
        entry: str = "main.py",
        memory_bytes: int = 0,
        modules: Sequence[str] = (),
    ) -> LiveProgram:
        """Start `entry` and leave it running.

        Several may be open at once, each in its own sandbox. `modules` are imported once for all later programs;
        without `modules` each program imports what it needs itself.
        """
