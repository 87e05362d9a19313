"""Which process is meant by a number: a host, one boot and namespace of it, a pid, and when that pid began.

Numbers are used again, and containers share host names or have pid 7 each; so a process is told to be dead only
where this process could see it alive.
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
    """One process of one machine."""

    host: str
    machine: str
    """Digest of host name, boot and pid namespace: two processes that have it in common can see each other."""
    pid: int
    began: int
    """Clock ticks from boot to its start; 0 where the system does not tell."""

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
    """Clock ticks from boot to a process's start; 0 where the system does not tell, None where there is none."""
    if not (_PROC / "self").exists():
        return 0 if psutil.pid_exists(pid) else None
    try:
        # The name, in brackets, may hold anything; 20 fields follow before the start time.
        fields = (_PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])
