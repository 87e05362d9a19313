"""The tier `none`: a plain subprocess, which confines nothing and protects no secret.

For a machine without namespaces, with an explicit flag only. The limits hold for a harmless program. A
malicious program can read every file of this user, use the network and outlive its run.
"""

import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from sia_core.domain.lab import Limits, SandboxResult
from sia_core.engine.sandbox.forked import bad_name, collect
from sia_core.engine.sandbox.inside import tree
from sia_core.engine.sandbox.launch import PROGRAM_ENVIRONMENT
from sia_core.engine.sandbox.outcome import Exit, Killer, classify
from sia_core.engine.sandbox.protocol import Tier
from sia_core.engine.sandbox.supervise import Capture
from sia_core.host.directories import write_files
from sia_core.host.untrusted import opened

_POLL_S = 0.005


class UnconfinedSubprocess:
    """Runs programs with this user's rights. Not a sandbox."""

    tier: Tier = "none"

    def __init__(self, *, sdk: Path | None = None) -> None:
        self._sdk = sdk

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
        """Implement `protocol.Sandbox.run`."""
        problem = bad_name((*files, entry, *collect)) or ("" if entry in files else f"no file {entry!r}")
        if problem:
            return SandboxResult("error", problem)
        try:
            folder = tempfile.mkdtemp(prefix="sia-unconfined-")
            try:
                return self._run(Path(folder), files, limits, entry, collect, stream, memory, started)
            finally:
                with contextlib.suppress(OSError):  # processes that outlived the run may still write
                    tree.remove(folder)
        except OSError as error:
            return SandboxResult("infrastructure", str(error))

    def close(self) -> None:
        """Do nothing, as nothing is kept between runs."""

    def _run(
        self,
        folder: Path,
        files: Mapping[str, bytes],
        limits: Limits,
        entry: str,
        names: Sequence[str],
        stream: socket.socket | None,
        memory: int | None,
        started: Callable[[int], None] | None,
    ) -> SandboxResult:
        write_files(folder, files)
        with Capture(limits.output_kb << 10) as stdout, Capture(limits.output_kb << 10) as stderr:
            began = time.monotonic()
            process = subprocess.Popen(
                [sys.executable, "-s", "-B", entry],
                cwd=folder,
                env=self._environment(folder, stream),
                stdin=subprocess.DEVNULL if memory is None else memory,
                stdout=stdout.write_fd,
                stderr=stderr.write_fd,
                pass_fds=() if stream is None else (stream.fileno(),),
                start_new_session=True,
            )
            _set_limits(process.pid, limits)
            if started is not None:
                _announce(process.pid, started)
            wait_status, cpu_s, killed_for = _watch(process, stdout, stderr, limits)
            end = Exit(wait_status, cpu_s, killed_for, stderr.text(), stdout.overflow or stderr.overflow)
            status, reason = classify(end, limits)
            wall_s = time.monotonic() - began
            with opened(folder) as fd:
                found = collect(fd, names, limits.files_mb << 20)
        if found is None and status == "ok":
            status, reason = "output", f"the collected files are larger than {limits.files_mb} MB"
        return SandboxResult(status, reason, stdout.text(), stderr.text(), found or {}, wall_s=wall_s, cpu_s=cpu_s)

    def _environment(self, folder: Path, stream: socket.socket | None) -> dict[str, str]:
        environment = {**PROGRAM_ENVIRONMENT, "HOME": str(folder), "TMPDIR": str(folder), "PYTHONHASHSEED": "0"}
        if self._sdk is not None:
            environment["PYTHONPATH"] = str(self._sdk)
        if stream is not None:
            environment["SIA_STREAM"] = str(stream.fileno())
        return environment


def _announce(pid: int, started: Callable[[int], None]) -> None:
    pidfd = os.pidfd_open(pid)  # works for an ended process too, as it has not been waited for
    try:
        started(pidfd)
    finally:
        os.close(pidfd)


def _set_limits(pid: int, limits: Limits) -> None:
    memory, disk, cpu = limits.memory_mb << 20, limits.disk_mb << 20, max(1, round(limits.cpu_s))
    with contextlib.suppress(ProcessLookupError):  # a short program may be over already
        resource.prlimit(pid, resource.RLIMIT_AS, (memory, memory))
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (disk, disk))
        resource.prlimit(pid, resource.RLIMIT_CPU, (cpu, cpu))


def _watch(
    process: subprocess.Popen[bytes], stdout: Capture, stderr: Capture, limits: Limits
) -> tuple[int, float, Killer | None]:
    """Wait for the program, and kill its process group at a limit; return wait status, CPU seconds and killer."""
    ended: list[tuple[int, float]] = []
    waiter = threading.Thread(target=lambda: ended.append(_wait(process)), daemon=True)
    waiter.start()
    deadline = time.monotonic() + limits.wall_s
    killed_for: Killer | None = None
    while waiter.is_alive():
        waiter.join(_POLL_S)
        stdout.pump()
        stderr.pump()
        if killed_for is None and (stdout.overflow or stderr.overflow or time.monotonic() > deadline):
            killed_for = "output" if stdout.overflow or stderr.overflow else "timeout"
            _kill_group(process.pid)
    stdout.pump()
    stderr.pump()
    _kill_group(process.pid)
    return *ended[0], killed_for


def _wait(process: subprocess.Popen[bytes]) -> tuple[int, float]:
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)  # otherwise Popen would wait again
    return status, usage.ru_utime + usage.ru_stime


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
