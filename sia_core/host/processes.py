"""Identify a process by host, boot, pid namespace, pid and start time.

Pids are reused, and containers may share host names and pids. A process is therefore known to be dead only where this
process could see it alive.
"""

import os
import socket
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psutil

from sia_core.domain.hashing import digest_json

_PROC = Path("/proc")


@dataclass(frozen=True)
class Process:
    """A process of a machine."""

    host: str
    machine: str
    """Digest of host name, boot and pid namespace; two processes with the same digest can see each other."""
    pid: int
    began: int
    """Clock ticks from boot to the start of the process; 0 if unknown."""

    @classmethod
    def this(cls) -> "Process":
        """Return the calling process."""
        return cls(socket.gethostname(), _machine(), os.getpid(), _began(os.getpid()) or 0)

    @property
    def here(self) -> bool:
        """True if the process belongs, or belonged, to this machine, this boot and this namespace."""
        return self.machine == _machine()

    @property
    def dead(self) -> bool:
        """True if the process is known to have ended; never True for a process of another machine."""
        if not self.here:
            return False
        began = _began(self.pid)
        return began is None or (bool(began and self.began) and began != self.began)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


@cache
def _machine() -> str:
    boot, namespace = _PROC / "sys/kernel/random/boot_id", _PROC / "self/ns/pid"
    seen = boot.read_text().strip() if boot.exists() else ""
    return digest_json([socket.gethostname(), seen, str(namespace.readlink()) if seen else ""])[:16]


def _began(pid: int) -> int | None:
    """Return clock ticks from boot to a process's start; 0 if unknown, None if there is no such process."""
    if not (_PROC / "self").exists():
        return 0 if psutil.pid_exists(pid) else None
    try:
        # The name in brackets may hold any text; the start time is field 20 after it.
        fields = (_PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])
