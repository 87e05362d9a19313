"""A long-running program in a sandbox: fed by a verifier, timed by the kernel's clock, killed at the end.

A thread of this process waits in `Sandbox.run`; the verifier's own thread talks over a socket and through
memory that both sides map. The memory is a sealed anonymous file: no side can shrink it, which would
end the other by SIGBUS. The program cannot make the verifier read more bytes or wait longer than requested,
and is ended by SIGKILL through a pidfd.

The CPU clock of another process is the kernel's own count (clock_getcpuclockid(3)), in nanoseconds, over
all of its threads, ended ones included.
"""

import contextlib
import fcntl
import mmap
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Self

from sia_core.domain.errors import SandboxError
from sia_core.domain.lab import Limits, ProgramEndedError, SandboxResult
from sia_core.engine.sandbox.inside import tree
from sia_core.engine.sandbox.protocol import Sandbox
from sia_core.engine.sandbox.supervise import process_id

_START_S = 60.0
_SEND_S = 10.0
_LENGTH = 4
_TICKS = os.sysconf("SC_CLK_TCK")
_SETTLE_S = 0.2
"""Maximum wait for a program to leave the processor before its clock is read."""
_POLL_S = 0.0002
_LOOKS = 2


class SandboxProgram:
    """Implement `lab.LiveProgram`. Raises SandboxError when the sandbox itself fails."""

    def __init__(
        self,
        sandbox: Sandbox,
        files: Mapping[str, bytes],
        limits: Limits,
        *,
        entry: str,
        memory_bytes: int,
        release: Callable[[], None],
    ) -> None:
        self._family = limits.subprocesses or sandbox.tier == "none"
        self._release = release
        self._result: SandboxResult | None = None
        self._pid, self._pidfd, self._closed = 0, -1, False
        self._began = threading.Event()
        size = max(memory_bytes, mmap.PAGESIZE)
        self._memory, fd = shared_memory(size)
        self._view = memoryview(self._memory)
        self._stream, self._theirs = socket.socketpair()
        # The disk limit grows by the shared memory, which some tiers count as files.
        room = replace(limits, disk_mb=limits.disk_mb + (size >> 20) + 1)
        self._thread = threading.Thread(
            target=self._run, args=(sandbox, files, room, entry, fd), name="sandbox-session", daemon=True
        )
        self._thread.start()
        self._began.wait(_START_S)
        if self._pidfd < 0:
            self._raise_end()

    @property
    def memory(self) -> memoryview:
        """Implement `lab.LiveProgram.memory`."""
        return self._view

    def send(self, data: bytes) -> None:
        """Implement `lab.LiveProgram.send`."""
        self._stream.settimeout(_SEND_S)
        try:
            self._stream.sendall(len(data).to_bytes(_LENGTH, "big") + data)
        except TimeoutError:
            raise self._stop("timeout", f"the program did not read for {_SEND_S:g} s") from None
        except OSError:
            self._raise_end()

    def recv(self, limit: int, timeout_s: float) -> bytes:
        """Implement `lab.LiveProgram.recv`."""
        deadline = time.monotonic() + timeout_s
        size = int.from_bytes(self._take(_LENGTH, deadline, timeout_s), "big")
        if size > limit:
            raise self._stop("output", f"the program sent a message of {size} bytes, at most {limit} are taken")
        return self._take(size, deadline, timeout_s)

    def cpu_s(self) -> float:
        """Implement `lab.LiveProgram.cpu_s`."""
        _let_settle(self._pid)
        try:
            return family_cpu_s(self._pid) if self._family else clock_s(self._pid)
        except OSError:
            self._raise_end()
            raise

    def close(self) -> SandboxResult:
        """Implement `lab.LiveProgram.close`."""
        if not self._closed:
            self._closed = True
            ours = self._thread.is_alive() and not self._over()
            self._kill()
            self._thread.join()
            self._stream.close()
            if self._pidfd >= 0:
                os.close(self._pidfd)
            self._view.release()
            with contextlib.suppress(BufferError):  # an array of the caller still uses the memory
                self._memory.close()
            if ours and self._result is not None and self._result.status != "infrastructure":
                self._result = replace(self._result, status="ok", reason="")
            self._release()
        return self._result or SandboxResult("infrastructure", "the sandbox gave no result")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _run(self, sandbox: Sandbox, files: Mapping[str, bytes], limits: Limits, entry: str, memory: int) -> None:
        try:
            self._result = sandbox.run(
                files, limits, entry=entry, stream=self._theirs, memory=memory, started=self._take_pidfd
            )
        except Exception as error:  # noqa: BLE001 - reported to the caller's thread
            self._result = SandboxResult("infrastructure", f"{type(error).__name__}: {error}")
        finally:
            os.close(memory)
            self._theirs.close()
            self._began.set()

    def _take_pidfd(self, pidfd: int) -> None:
        self._pid = process_id(pidfd)
        self._pidfd = os.dup(pidfd)
        self._theirs.close()  # otherwise the stream would stay open when the program ends
        self._began.set()

    def _take(self, size: int, deadline: float, timeout_s: float) -> bytes:
        data = bytearray()
        while len(data) < size:
            self._stream.settimeout(max(0.001, deadline - time.monotonic()))
            try:
                chunk = self._stream.recv(size - len(data))
            except TimeoutError:
                if self._over():
                    self._raise_end()
                raise self._stop("timeout", f"no answer in {timeout_s:g} s") from None
            except OSError:
                chunk = b""
            if not chunk:
                self._raise_end()
            data += chunk
        return bytes(data)

    def _over(self) -> bool:
        """Return True if the program has ended by itself; a pidfd of a dead process can be read."""
        return bool(self._pidfd >= 0 and select.select([self._pidfd], [], [], 0)[0])

    def _stop(self, status: str, reason: str) -> ProgramEndedError:
        self.close()
        return ProgramEndedError("timeout" if status == "timeout" else "output", reason)

    def _raise_end(self) -> None:
        """Raise the error of the program's end; wait a moment, as the stream may close before the program is dead."""
        self._thread.join(1.0)
        result = self.close()
        if result.status == "infrastructure":
            raise SandboxError(result.reason, where="sandbox")
        if result.status == "ok":
            raise ProgramEndedError("error", "the program ended, or closed its stream, before its work was done")
        raise ProgramEndedError(result.status, result.reason)

    def _kill(self) -> None:
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        self._stream.close()


def shared_memory(size: int) -> tuple[mmap.mmap, int]:
    """Create anonymous memory of `size` bytes; return its mapping here, and a descriptor to pass on."""
    fd = os.memfd_create("session", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.truncate(fd, size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        return mmap.mmap(fd, size), fd
    except BaseException:
        os.close(fd)
        raise


def _let_settle(pid: int) -> None:
    """Wait until the program's main thread is off the processor, _SETTLE_S at most.

    To another process, the clock of a running thread can appear to stop for a tick of the kernel (4 ms here). A program
    runs for a moment after its answer, so a short call could seem to have taken no time. A thread that waits for a lock
    of the socket appears asleep once, so two looks must agree.
    """
    until = time.monotonic() + _SETTLE_S
    asleep = 0
    while asleep < _LOOKS and time.monotonic() < until:
        asleep = 0 if _runs(pid) else asleep + 1
        time.sleep(_POLL_S)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] == b"R"
    except OSError:  # The program has ended, and reading its clock will fail.
        return False


def clock_s(pid: int) -> float:
    """CPU seconds of a process over all of its threads; OSError when there is none."""
    return time.clock_gettime((~pid << 3) | 2)


def family_cpu_s(pid: int) -> float:
    """CPU seconds of a process and its descendants, see `lab.LiveProgram.cpu_s`; OSError when there is no process."""
    total = clock_s(pid) + _waited_s(pid)
    for member in tree.below(pid, tree.tasks()):
        with contextlib.suppress(OSError):  # the process has just ended
            total += clock_s(member) + _waited_s(member)
    return total


def _waited_s(pid: int) -> float:
    """CPU seconds of the children that a process waited for, in whole ticks."""
    fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    return sum(map(int, fields[13:15])) / _TICKS
