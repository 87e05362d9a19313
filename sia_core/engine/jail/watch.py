"""Watch a jail from outside: its time, memory, disk usage and output."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from sia_core.domain.jail import Killer
from sia_core.domain.lab import Limits
from sia_core.engine.sandbox.watchdog import TreeGuard
from sia_core.host.untrusted import UntrustedError, measure

OUTPUT_BYTES = 100_000
"""Bytes kept from the end of each output."""
DISK_BYTES, DISK_FILES = 4 << 30, 200_000
_LOOK_S = 0.25
_PATIENCE = 20
"""Pause after each measurement of the disk, as a multiple of the measurement's duration."""


class Tail(threading.Thread):
    """Reads a stream to its end, and keeps the last part."""

    def __init__(self, stream: IO[bytes], cap: int = OUTPUT_BYTES) -> None:
        super().__init__(name="jail-output", daemon=True)
        self._stream, self._cap, self._data = stream, cap, bytearray()
        self._left_out = 0
        self.start()

    def run(self) -> None:
        """Read the stream in this thread."""
        with self._stream:
            while chunk := self._stream.read1(1 << 16):  # type: ignore[attr-defined]
                self._data += chunk
                if len(self._data) > 2 * self._cap:
                    self._cut()

    def text(self) -> str:
        """Wait for the end of the stream; return its last part."""
        self.join()
        self._cut()
        before = f"[... {self._left_out} bytes left out ...]\n" if self._left_out else ""
        return before + self._data.decode(errors="replace")

    def _cut(self) -> None:
        extra = max(0, len(self._data) - self._cap)
        self._left_out += extra
        del self._data[:extra]


class Watch(threading.Thread):
    """Kills a jail that exceeds a limit. `first` is a pidfd of the process whose death ends all others."""

    def __init__(self, pid: int, first: int, folders: Sequence[Path], seconds: float) -> None:
        super().__init__(name="jail-watch", daemon=True)
        self._first, self._pid, self._folders = first, pid, folders
        self._deadline = time.monotonic() + seconds
        self._memory = TreeGuard(Limits(memory_mb=_memory_mb(), cpu_s=float("inf")))
        self._next_measure = 0.0
        self._over = threading.Event()
        self.killed_for: Killer | None = None
        self.start()

    def run(self) -> None:
        """Check the limits periodically in this thread."""
        while not self._over.wait(_LOOK_S):
            why = self._look()
            if why is not None:
                self.killed_for = why
                kill(self._first)
                return

    def end(self) -> None:
        """Stop watching."""
        self._over.set()
        self.join()

    def _look(self) -> Killer | None:
        if time.monotonic() > self._deadline:
            return "time"
        if self._memory(self._pid) is not None:
            return "memory"
        if time.monotonic() >= self._next_measure:
            began = time.monotonic()
            try:
                used = sum(measure(folder, DISK_FILES) for folder in self._folders)
            except UntrustedError:
                return "disk"
            self._next_measure = time.monotonic() + _PATIENCE * (time.monotonic() - began)
            if used > DISK_BYTES:
                return "disk"
        return None


def kill(pidfd: int) -> None:
    """Kill a process, unless it has ended."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)


def _memory_mb() -> int:
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20
    return max(1024, min(16_384, pages // 2))
