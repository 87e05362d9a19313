"""The one interface of every sandbox backend."""

import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from sia_core.domain.lab import Limits, SandboxResult

Tier = Literal["strict", "landlock", "none"]


@dataclass(frozen=True)
class TierReport:
    """Findings of the start-up self-test; recorded on every run."""

    tier: Tier
    missing: tuple[str, ...]
    """Layers of the strict tier that this machine does not offer."""
    probe_digest: str
    """Digest over the names and outcomes of the self-test's probes."""
    probes: Mapping[str, str]
    """Probe name -> `blocked`, `works` (positive control) or the failure."""


class Sandbox(Protocol):
    """Runs untrusted programs. Not thread-safe: one per worker."""

    tier: Tier

    def run(
        self,
        files: Mapping[str, bytes],
        limits: Limits,
        *,
        entry: str = "main.py",
        collect: Sequence[str] = (),
        stream: socket.socket | None = None,
        memory: int | None = None,
        started: Callable[[int], None] | None = None,
    ) -> SandboxResult:
        """Run `entry` (Python source) in a private directory that holds `files`, until it ends.

        Blocks, and never raises for anything the program does.

        Args:
            stream: socket for the program, as the file descriptor in the environment variable SIA_STREAM; the caller
                serves the other end in another thread, and closes both.
            memory: descriptor that becomes the program's standard input, with a stream only.
            started: called once, in this thread, with a pidfd of the program that is valid until `run` returns.
        """

    def close(self) -> None:
        """End every process and mount of this sandbox. Idempotent."""
