"""Base of the tiers `strict` and `landlock`: one fork of a zygote for every program.

The zygote is started at the first run, and again after it died or failed; the program that ran at that time is
reported as `infrastructure`. Runs share nothing: each has its own process and directory, and the zygote reads no
output of a program.
"""

import os
import socket
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import PurePosixPath

from sia_core.domain.errors import SandboxError
from sia_core.domain.lab import Limits, SandboxResult
from sia_core.engine.sandbox.inside import wire
from sia_core.engine.sandbox.launch import Launcher, Zygote, memory_file
from sia_core.engine.sandbox.outcome import Exit, classify
from sia_core.engine.sandbox.protocol import Tier
from sia_core.engine.sandbox.supervise import Capture, Guard, Watch, Watched
from sia_core.host.untrusted import open_regular


class ForkedSandbox:
    """Runs untrusted programs in forks of a zygote. Not thread-safe: one per worker."""

    tier: Tier
    missing: tuple[str, ...] = ()
    """Layers that this machine cannot offer, besides those of its kernel."""

    def __init__(self, launcher: Launcher, modules: Sequence[str]) -> None:
        self.tier = launcher.tier
        self._launcher = launcher
        self._modules = tuple(modules)
        self._zygote: Zygote | None = None
        self._finalizer: weakref.finalize[[], ForkedSandbox] | None = None

    def start(self) -> Zygote:
        """Return the live zygote, started if there is none. Raises SandboxError if it cannot start."""
        if self._zygote is not None and not self._zygote.alive:
            self.close()
        if self._zygote is None:
            self._zygote = Zygote(self._launcher, self._modules)
            self._finalizer = weakref.finalize(self, self._zygote.stop)
        return self._zygote

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
        began = time.monotonic()
        given = [stream.fileno()] if stream is not None else []
        given += [memory] if memory is not None else []
        try:
            return self._judge(self._run(self.start(), files, limits, entry, collect, given, started), limits)
        except (OSError, EOFError, ValueError, SandboxError) as error:
            self.close()
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            return SandboxResult("infrastructure", reason, wall_s=time.monotonic() - began)
        except BaseException:  # interrupted: the zygote is in the middle of a program
            self.close()
            raise

    def close(self) -> None:
        """Implement `protocol.Sandbox.close`. A later `run` starts a new zygote."""
        if self._finalizer is not None:
            self._finalizer()
        self._zygote = None

    def _box(self, zygote: Zygote) -> str:
        """Return the private directory of the next program."""
        return zygote.folder

    def _guard(self, box: str, limits: Limits) -> Guard | None:
        """Return the additional guard that watches this program, or None."""
        raise NotImplementedError

    def _judge(self, result: SandboxResult, limits: Limits) -> SandboxResult:  # noqa: ARG002 - for tiers
        """Return the result, which a tier may correct."""
        return result

    def _left(self, box: str) -> None:
        """Clean up after a program."""

    def _run(
        self,
        zygote: Zygote,
        files: Mapping[str, bytes],
        limits: Limits,
        entry: str,
        names: Sequence[str],
        given: Sequence[int],
        started: Callable[[int], None] | None,
    ) -> SandboxResult:
        box = self._box(zygote)
        guard = self._guard(box, limits)
        fields = {"entry": entry, "box": box, "limits": asdict(limits)}
        head = wire.header(fields, [(name, len(data)) for name, data in files.items()])
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs, Capture(limits.output_kb << 10) as stdout, Capture(limits.output_kb << 10) as stderr:
            try:
                _send(zygote, memory_file(head, *files.values()), theirs, stdout, stderr, given)
                watched = Watch(ours, stdout, stderr, limits, guard, started).run()
                try:
                    return _result(watched, stdout, stderr, limits, names)
                finally:
                    if watched.folder >= 0:
                        os.close(watched.folder)
            finally:
                self._left(box)


def bad_name(names: Iterable[str]) -> str:
    """Return the error for the first name that is not a plain relative path; empty if all are."""
    for name in names:
        path = PurePosixPath(name)
        plain = str(path) == name and not path.is_absolute() and ".." not in path.parts and path.parts
        if not plain or not name.isprintable() or len(name.encode(errors="replace")) > 1024:
            return f"file name {name[:100]!r} is not a plain relative path"
    return ""


def _send(
    zygote: Zygote, request: int, result: socket.socket, stdout: Capture, stderr: Capture, given: Sequence[int]
) -> None:
    fds = [request, result.fileno(), stdout.write_fd, stderr.write_fd, *given]
    try:
        socket.send_fds(zygote.control, [b"run"], fds)
    finally:
        os.close(request)
        result.close()
        stdout.close_write()
        stderr.close_write()


def _result(watched: Watched, stdout: Capture, stderr: Capture, limits: Limits, names: Sequence[str]) -> SandboxResult:
    report = watched.report
    if "unwritable" in report:
        return SandboxResult("disk" if report["disk"] else "error", report["unwritable"], wall_s=watched.wall_s)
    if "failed" in report or watched.folder < 0:
        raise ValueError(report.get("failed", "the confined process died before it began"))
    overflow = stdout.overflow or stderr.overflow
    end = Exit(report["status"], report["cpu_s"], watched.killed_for, stderr.text(), overflow)
    status, reason = classify(end, limits)
    files = collect(watched.folder, names, limits.files_mb << 20)
    if files is None and status == "ok":
        status, reason = "output", f"the collected files are larger than {limits.files_mb} MB"
    texts = stdout.text(), stderr.text()
    return SandboxResult(status, reason, *texts, files or {}, wall_s=watched.wall_s, cpu_s=report["cpu_s"])


def collect(folder: int, names: Iterable[str], cap: int) -> dict[str, bytes] | None:
    """Contents by name below the directory `folder`, which untrusted code filled; None when they pass `cap` bytes.

    Regular files only. No link is followed at any step of a name, nothing that could block is waited for, and sizes
    are checked before anything is read.
    """
    opened: dict[str, int] = {}
    try:
        for name in dict.fromkeys(names):
            fd = open_regular(folder, name)
            if fd >= 0:
                opened[name] = fd
        if sum(os.fstat(fd).st_size for fd in opened.values()) > cap:
            return None
        return {name: _read(fd) for name, fd in opened.items()}
    finally:
        for fd in opened.values():
            os.close(fd)


def _read(fd: int) -> bytes:
    with open(fd, "rb", buffering=0, closefd=False) as file:
        return file.readall()
