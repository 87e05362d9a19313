"""One rollout: a trusted guard process, and below it the process that runs untrusted code.

The guard leaves the zygote's namespaces, mounts the private directory, writes the program's files
and forks. The child is pid 1 of its own pid namespace (its death ends every process in it), takes
off every right and runs the program. When it is dead the guard collects the named files from the
mount that only the two could see, sends them with the exit status and leaves; the kernel then
drops the mount with everything in it.

The guard is outside the child's pid namespace, and the child has neither ptrace nor a descriptor
of the guard's, so what the guard reports cannot be forged.
"""

import errno
import fcntl
import math
import os
import resource
import signal
import socket
import stat
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from . import kernel, program, wire

BOX = "/box"
"""Private working directory of the program."""
STREAM_FD = 3
_REPORT_ROOM = 16 << 20
_MAX_FILES = 4096
_MAX_TASKS = 128
_PIDFD_MARK = b"p"
_READY = b"ready"
_EVERY_FD = 1 << 20
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


@dataclass(frozen=True)
class Confinement:
    """What the zygote found or was given once, the same for every rollout."""

    bpf: bytes
    landlock: int
    """Version; 0 when the kernel has none."""
    baseline: int
    """Address space of the idle interpreter, in bytes; limits count from there."""
    environment: dict[str, str]


@dataclass(frozen=True)
class Channels:
    """Descriptors of one rollout, as the supervisor sent them."""

    request: int
    result: socket.socket
    stdout: int
    stderr: int
    stream: int | None


def guard(channels: Channels, confinement: Confinement) -> NoReturn:
    """Run one request in this (freshly forked) process and exit."""
    try:
        _guard(channels, confinement)
    except BaseException as error:
        _tell(channels.result, {"failed": f"{type(error).__name__}: {error}"})
    os._exit(0)


def _guard(channels: Channels, confinement: Confinement) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    request, files = wire.decode(_read_all(channels.request))
    limits = request["limits"]
    _leave_namespaces()
    _mount_private(limits["disk_mb"])
    try:
        _write_files(files)
    except OSError as error:
        _tell(channels.result, {"unwritable": str(error), "disk": error.errno == errno.ENOSPC})
        return
    del files
    ready, tell_ready = os.pipe()
    child = os.fork()
    if child == 0:
        _run_untrusted(request, channels, confinement, tell_ready)
    os.close(tell_ready)
    problem = os.read(ready, 4096)
    if problem != _READY:
        raise RuntimeError(problem.decode(errors="replace") or "the confined process died before it began")
    socket.send_fds(channels.result, [_PIDFD_MARK], [os.pidfd_open(child)])
    _, status, usage = os.wait4(child, 0)
    outcome = {"status": status, "cpu_s": usage.ru_utime + usage.ru_stime}
    _collect(channels.result, request["collect"], limits["files_mb"] << 20, outcome)


def _read_all(fd: int) -> bytes:
    size = os.fstat(fd).st_size
    data = os.pread(fd, size, 0)
    while len(data) < size:
        data += os.pread(fd, size - len(data), len(data))
    return data


def _leave_namespaces() -> None:
    uid, gid = os.geteuid(), os.getegid()
    kernel.unshare(
        kernel.CLONE_NEWUSER | kernel.CLONE_NEWPID | kernel.CLONE_NEWNS | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS
    )
    for name, line in (("setgroups", "deny"), ("uid_map", f"1000 {uid} 1"), ("gid_map", f"1000 {gid} 1")):
        fd = os.open(f"/proc/self/{name}", os.O_WRONLY)
        os.write(fd, line.encode())
        os.close(fd)


def _mount_private(disk_mb: int) -> None:
    plain = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
    kernel.mount("none", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)
    kernel.mount("tmpfs", BOX, "tmpfs", plain, f"size={disk_mb}m,nr_inodes={_MAX_FILES},mode=700")
    kernel.mount("tmpfs", "/dev/shm", "tmpfs", plain, "size=1m,nr_inodes=64,mode=1777")
    # Last: the user map above is written through /proc, which is gone from here on.
    kernel.mount("tmpfs", "/proc", "tmpfs", plain | kernel.MS_RDONLY, "size=4k,nr_inodes=1")


def _write_files(files: dict[str, bytes]) -> None:
    for name, data in files.items():
        path = Path(BOX, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def _run_untrusted(request: wire.Header, channels: Channels, confinement: Confinement, ready: int) -> NoReturn:
    path = Path(BOX, request["entry"])
    try:
        ready = _take_descriptors(channels, ready)
        _enter_program(request["entry"], confinement.environment, channels.stream is not None)
        _set_limits(request["limits"], confinement.baseline)
        _drop_rights(confinement)
        os.write(ready, _READY)
        os.close(ready)
    except BaseException as error:
        os.write(ready, f"{type(error).__name__}: {error}".encode())
        os._exit(1)
    program.execute(path)


def _take_descriptors(channels: Channels, ready: int) -> int:
    """Keep the standard streams, the stream as 3, and the ready pipe; close all others."""
    wanted = [channels.stdout, channels.stderr, ready if channels.stream is None else channels.stream, ready]
    # Copies above every target first, so that no dup2 below overwrites one still needed.
    copies = [fcntl.fcntl(fd, fcntl.F_DUPFD, 64) for fd in wanted]
    for target, fd in enumerate(copies, start=1):
        os.dup2(fd, target)
    os.closerange(STREAM_FD + 2, _EVERY_FD)
    if channels.stream is None:
        os.close(STREAM_FD)
    return STREAM_FD + 1


def _enter_program(entry: str, environment: dict[str, str], stream: bool) -> None:
    """Make the interpreter look as if it had been started for `entry`; forget this package."""
    os.chdir(BOX)
    os.environ.clear()
    os.environ.update(environment)
    if stream:
        os.environ["SIA_STREAM"] = str(STREAM_FD)
    sys.argv[:] = [entry]
    sys.path[0] = str(Path(BOX, entry).parent)
    for name in [name for name in sys.modules if name.split(".")[0] == __name__.split(".")[0]]:
        del sys.modules[name]
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:  # its global generator would be the same in every rollout
        numpy_random.seed()


def _set_limits(limits: dict[str, float], baseline: int) -> None:
    memory = baseline + (int(limits["memory_mb"]) << 20)
    cpu = max(1, math.ceil(limits["cpu_s"]))
    disk = int(limits["disk_mb"]) << 20
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory + _REPORT_ROOM))
    # Soft equals hard: pid 1 is immune to SIGXCPU, but not to the SIGKILL of the hard limit.
    resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu))
    resource.setrlimit(resource.RLIMIT_FSIZE, (disk, disk))
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    resource.setrlimit(resource.RLIMIT_NPROC, (_MAX_TASKS, _MAX_TASKS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _drop_rights(confinement: Confinement) -> None:
    kernel.drop_capabilities()
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
    if confinement.landlock:
        kernel.landlock(confinement.landlock, (BOX, "/dev/shm"), "/dev")
    kernel.load_seccomp(confinement.bpf)


def _collect(result: socket.socket, names: Sequence[str], cap: int, outcome: dict[str, Any]) -> None:
    """Send the outcome and the named files; none of them when together they pass `cap` bytes."""
    found = list(_open_regular(names))
    if sum(size for _, size, _ in found) > cap:
        found, outcome = [], {**outcome, "oversize": True}
    result.sendall(wire.header(outcome, [(name, size) for name, size, _ in found]))
    for _, size, file in found:
        with file:
            result.sendfile(file, count=size or None)


def _open_regular(names: Sequence[str]) -> Iterator[tuple[str, int, BinaryIO]]:
    for name in dict.fromkeys(names):
        try:
            fd = _open_below(name)
        except OSError:  # missing, or a symbolic link on the way
            continue
        info = os.fstat(fd)
        if stat.S_ISREG(info.st_mode):
            yield name, info.st_size, open(fd, "rb", buffering=0)
        else:
            os.close(fd)


def _open_below(name: str) -> int:
    """Open `name` below the box, following no link at any step and blocking on no FIFO."""
    fd = os.open(BOX, _OPEN | os.O_DIRECTORY)
    for part in Path(name).parts:
        parent = fd
        try:
            fd = os.open(part, _OPEN, dir_fd=parent)
        finally:
            os.close(parent)
    return fd


def _tell(result: socket.socket, fields: dict[str, Any]) -> None:
    result.sendall(wire.header(fields))
