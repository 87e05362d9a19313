"""Watch one program from outside: read its output up to the cap, kill it at its deadline.

The clock is monotonic and starts with the program. The kill is SIGKILL through a pidfd of the
program's pid 1, so it cannot hit another process and ends the whole pid namespace. The supervisor
never waits for the end of a pipe that the program could hold open: the zygote's report, which comes
after the program is dead, is the end.
"""

import contextlib
import json
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sia_core.domain.lab import Limits
from sia_core.engine.sandbox.outcome import Killer

_SETUP_S = 30.0
_GRACE_S = 10.0
_LONGEST_POLL_S = 3600.0
_GUARD_POLL_S = 0.02
_CHUNK = 1 << 16

Guard = Callable[[int], Killer | None]
"""Called periodically with a program's process id; returns the reason to kill the program, or None."""


class Capture:
    """The read end of a pipe, and the first `cap` bytes read."""

    def __init__(self, cap: int) -> None:
        self.read_fd, self.write_fd = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self.read_fd, False)
        self.overflow = False
        self._cap = cap
        self._data = bytearray()

    def fileno(self) -> int:
        return self.read_fd

    def pump(self) -> bool:
        """Read the available output, at most one byte over the cap; return False at its end."""
        while not self.overflow:
            try:
                chunk = os.read(self.read_fd, min(_CHUNK, self._cap + 1 - len(self._data)))
            except BlockingIOError:
                return True
            if not chunk:
                return False
            self._data += chunk
            self.overflow = len(self._data) > self._cap
        del self._data[self._cap :]
        return False

    def text(self) -> str:
        return self._data.decode(errors="replace")

    def close_write(self) -> None:
        if self.write_fd >= 0:
            os.close(self.write_fd)
            self.write_fd = -1

    def __enter__(self) -> "Capture":
        return self

    def __exit__(self, *error: object) -> None:
        self.close_write()
        os.close(self.read_fd)


@dataclass(frozen=True)
class Watched:
    """Outcome of one program, and its directory."""

    report: dict[str, Any]
    wall_s: float
    killed_for: Killer | None
    folder: int
    """Descriptor of the directory, for the receiver to close; -1 if no program was started."""


class Watch:
    """Watches one program from request to result. Raises OSError or ValueError if the sandbox failed."""

    def __init__(
        self,
        result: socket.socket,
        stdout: Capture,
        stderr: Capture,
        limits: Limits,
        guard: Guard | None,
        started: Callable[[int], None] | None = None,
    ) -> None:
        self._result = result
        self._captures = (stdout, stderr)
        self._limits, self._guard, self._started = limits, guard, started
        self._next_look = 0.0
        self._longest = _LONGEST_POLL_S if guard is None else _GUARD_POLL_S
        self._pid = 0
        self._pidfd = self._folder = -1
        self._began = time.monotonic()
        self._deadline = self._began + _SETUP_S
        self._killed_for: Killer | None = None
        self._report: dict[str, Any] = {}

    def run(self) -> Watched:
        """Wait for the zygote's report, and read the rest of the output."""
        try:
            with selectors.PollSelector() as selector:
                self._loop(selector)
        except BaseException:
            _close(self._folder)
            raise
        finally:
            _close(self._pidfd)
        wall_s = time.monotonic() - self._began
        for capture in self._captures:
            capture.pump()
        return Watched(self._report, wall_s, self._killed_for, self._folder)

    def _loop(self, selector: selectors.BaseSelector) -> None:
        for source in (self._result, *self._captures):
            selector.register(source, selectors.EVENT_READ)
        while not self._report:
            left = self._deadline - time.monotonic()
            for key, _ in selector.select(min(max(0.0, left), self._longest)):
                if isinstance(key.fileobj, Capture):
                    self._take_output(key.fileobj, selector)
                else:
                    self._take_message()
            if self._report:
                return
            if time.monotonic() >= self._deadline:
                if self._pidfd < 0 or self._killed_for is not None:
                    raise TimeoutError("the sandbox did not report in time")
                self._kill("timeout")
            self._ask_guard()

    def _take_output(self, capture: Capture, selector: selectors.BaseSelector) -> None:
        if not capture.pump():
            selector.unregister(capture)
        if capture.overflow:
            self._kill("output")

    def _take_message(self) -> None:
        message, fds, _, _ = socket.recv_fds(self._result, _CHUNK, 2)
        if fds:
            self._pidfd, self._folder = fds
            self._pid = process_id(self._pidfd)
            self._began = time.monotonic()
            self._deadline = self._began + self._limits.wall_s
            if self._started is not None:
                self._started(self._pidfd)
        elif message:
            self._report = json.loads(message)
        else:
            raise EOFError("the sandbox ended without a report")

    def _ask_guard(self) -> None:
        if self._guard is None or self._pid <= 0 or self._killed_for is not None:
            return
        if time.monotonic() >= self._next_look:  # by the clock, as a program that writes keeps select busy
            why = self._guard(self._pid)
            self._next_look = time.monotonic() + _GUARD_POLL_S
            if why is not None:
                self._kill(why)

    def _kill(self, why: Killer) -> None:
        if self._killed_for is None and self._pidfd >= 0:
            self._killed_for = why
            self._deadline = time.monotonic() + _GRACE_S
            with contextlib.suppress(ProcessLookupError):  # the program has just ended
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)


def process_id(pidfd: int) -> int:
    """Return the process id of a pidfd, in this process's namespace; -1 for a dead process."""
    lines = Path(f"/proc/self/fdinfo/{pidfd}").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pid:"))


def _close(fd: int) -> None:
    if fd >= 0:
        os.close(fd)
