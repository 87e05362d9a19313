"""The strict tier: bubblewrap, and under it one fork of a zygote for every program.

A zygote is started at the first run, and again after it died or failed; a program that was in it
then is reported as `infrastructure`. Nothing of one run is left for the next: each has its own
mounts, process and namespaces, and the zygote reads nothing that a program wrote.
"""

import os
import socket
import time
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path, PurePosixPath

from sia_core.engine.sandbox import bubblewrap
from sia_core.engine.sandbox.collect import collect
from sia_core.engine.sandbox.inside import wire
from sia_core.engine.sandbox.launch import Zygote, ZygoteSpec, memory_file
from sia_core.engine.sandbox.outcome import Exit, classify
from sia_core.engine.sandbox.protocol import Tier
from sia_core.engine.sandbox.supervise import Capture, Watch, Watched
from sia_core.errors import SandboxError
from sia_core.lab import Limits, SandboxResult

DEFAULT_MODULES = ("numpy", "scipy.sparse.linalg")


class StrictSandbox:
    """Runs untrusted programs under every layer. Not thread-safe: one per worker.

    `modules` are imported once, in the zygote; `sdk` is a directory that programs can import from.
    """

    tier: Tier = "strict"

    def __init__(
        self, *, modules: Sequence[str] = DEFAULT_MODULES, sdk: Path | None = None, bwrap: str | None = None
    ) -> None:
        self._spec = ZygoteSpec(bubblewrap.find_bubblewrap(bwrap), tuple(modules), sdk)
        self._zygote: Zygote | None = None
        self._finalizer: weakref.finalize[[], StrictSandbox] | None = None

    def start(self) -> Zygote:
        """The live zygote, started when there is none. Raises SandboxError when it cannot be."""
        if self._zygote is not None and not self._zygote.alive:
            self.close()
        if self._zygote is None:
            self._zygote = Zygote(self._spec)
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
    ) -> SandboxResult:
        """See `protocol.Sandbox.run`."""
        problem = bad_name((*files, entry, *collect)) or ("" if entry in files else f"no file {entry!r}")
        if problem:
            return SandboxResult("error", problem)
        started = time.monotonic()
        try:
            zygote = self.start()
            return _run(zygote, files, limits, entry, collect, stream)
        except (OSError, EOFError, ValueError, SandboxError) as error:
            self.close()
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            return SandboxResult("infrastructure", reason, wall_s=time.monotonic() - started)
        except BaseException:  # interrupted: the zygote is in the middle of a program
            self.close()
            raise

    def close(self) -> None:
        """See `protocol.Sandbox.close`. A later `run` starts anew."""
        if self._finalizer is not None:
            self._finalizer()
        self._zygote = None


def bad_name(names: Iterable[str]) -> str:
    """What is wrong with the first name that is no plain relative path; empty when all are."""
    for name in names:
        path = PurePosixPath(name)
        plain = str(path) == name and not path.is_absolute() and ".." not in path.parts and path.parts
        if not plain or not name.isprintable() or len(name.encode(errors="replace")) > 1024:
            return f"file name {name[:100]!r} is not a plain relative path"
    return ""


def _run(
    zygote: Zygote,
    files: Mapping[str, bytes],
    limits: Limits,
    entry: str,
    names: Sequence[str],
    stream: socket.socket | None,
) -> SandboxResult:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    cap = limits.output_kb << 10
    stdout, stderr = Capture(cap), Capture(cap)
    fields = {"entry": entry, "limits": asdict(limits)}
    head = wire.header(fields, [(name, len(data)) for name, data in files.items()])
    try:
        with ours, theirs:
            _send(zygote, memory_file(head, *files.values()), theirs, stdout, stderr, stream)
            watched = Watch(ours, stdout, stderr, limits).run()
        try:
            return _result(watched, stdout, stderr, limits, names)
        finally:
            if watched.folder >= 0:
                os.close(watched.folder)
    finally:
        stdout.close()
        stderr.close()


def _send(
    zygote: Zygote, request: int, result: socket.socket, stdout: Capture, stderr: Capture, stream: socket.socket | None
) -> None:
    fds = [request, result.fileno(), stdout.write_fd, stderr.write_fd]
    if stream is not None:
        fds.append(stream.fileno())
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
