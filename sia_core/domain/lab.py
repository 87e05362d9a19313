"""Limits for untrusted code, and the result of running it.

`Lab` is the only door through which a verifier executes code that a model wrote. The
engine's sandbox backends implement it; nothing here can run anything.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, Self

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
    """True if the program may fork and run other programs: at most 32 processes and threads.

    Weaker: `memory_mb` and `cpu_s` hold for all processes together only by a watch from outside, so
    they may be passed for some tens of milliseconds; each process alone is held by the kernel. There is
    more of the kernel to attack, and every program of the system can be run. All else stays as it is.
    """
    native: bool = False
    """True if files in the program's directory may be loaded as machine code: a compiler's output of an earlier run."""


@dataclass(frozen=True)
class SandboxResult:
    """Output and files that one program left behind. Files are bytes: nothing is unpickled or imported."""

    status: SandboxStatus
    reason: str = ""
    """One line for `status` other than ok."""
    stdout: str = ""
    stderr: str = ""
    files: Mapping[str, bytes] = field(default_factory=dict)
    """Collected regular files by the name they were asked for; missing ones are absent."""
    wall_s: float = 0.0
    cpu_s: float = 0.0


class ProgramEndedError(Exception):
    """A session is over before its time, by the program's own fault."""

    def __init__(self, status: SandboxStatus, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        """One line, which may quote what the program wrote."""


class LiveProgram(Protocol):
    """A program that lives on and is given one piece of work after the other.

    It finds a stream, whose descriptor is in the environment variable SIA_STREAM, and the shared memory as its
    standard input, to be mapped. Frames on the stream are a length (4 bytes, big-endian) and that many bytes.
    Every method may raise ProgramEndedError; the program is then dead.
    """

    @property
    def memory(self) -> memoryview:
        """The shared memory: bytes that both sides read and write at any time, of a size neither can change."""

    def send(self, data: bytes) -> None:
        """Send one frame."""

    def recv(self, limit: int, timeout_s: float) -> bytes:
        """The next frame. One above `limit` bytes, or none in time, ends the program."""

    def cpu_s(self) -> float:
        """CPU seconds of the program's process so far, over all of its threads, by a clock it cannot touch.

        With `Limits.subprocesses`, and in the tier none, its descendants count too: the living exactly, those it
        waited for in steps of the kernel's tick (10 ms), those that ended unwaited for not at all.
        """

    def close(self) -> SandboxResult:
        """End the program, if it has not ended. Idempotent."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...


class Lab(Protocol):
    """Runs untrusted programs for the verifier."""

    def run(
        self, files: Mapping[str, bytes], limits: Limits, *, entry: str = "main.py", collect: Sequence[str] = ()
    ) -> SandboxResult:
        """Run `entry` in an empty directory holding `files`; return the files named in `collect`."""


class LiveProgramLab(Lab, Protocol):
    """A lab that can also keep programs running; the one that a verifier is given always can."""

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

        Several may be open at once, each in a sandbox of its own. `modules` are those imported once for all
        programs to come; without them the program imports what it needs itself.
        """
