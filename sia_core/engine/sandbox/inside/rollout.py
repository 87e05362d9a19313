"""One rollout: from a fresh fork of the zygote to untrusted code without any rights.

In the strict tier, the process is pid 1 of its own pid namespace, so its death ends every process in the namespace.
It mounts its private directory in its own mount namespace, and the mount ends with its last user. In the tier
`landlock`, the process has no namespaces: the supervisor removes its ordinary directory, and the zygote ends the
processes that it leaves running.

The process writes the program's files, sends the supervisor two descriptors (one of itself, to kill it, and one of the
directory, to collect files afterwards), and drops all other rights. The zygote reports the end over a socket that this
process closes before the program starts: a program can forge its own output only.

The first access to each page is a fault and a copy, which are most of a rollout's cost. So this module uses plain `os`
calls, not `pathlib`.
"""

# ruff: noqa: PTH102, PTH103, PTH120 - see above
# ruff: noqa: TID252 - inside the sandbox this package has another name, so its imports are relative

import errno
import fcntl
import json
import math
import os
import resource
import signal
import socket
import struct
import sys
from dataclasses import dataclass
from typing import Any, NoReturn

from . import kernel, program, tree, wire

_STREAM, _RESULT, _BOX_FD, _PIDFD = 3, 4, 5, 6
_EVERY_FD = 1 << 20
_LONGEST_S = 1 << 30
_REPORT_ROOM = 16 << 20
_MAX_FILES = 4096
PRIVATE = "/box"
"""Mount point of the file system that a program can write to, in the strict tier."""
BOX, SHARED_MEMORY = f"{PRIVATE}/work", f"{PRIVATE}/shm"
"""Directories in PRIVATE: the program's, and the target of /dev/shm."""
_MAX_THREADS, _MAX_PROCESSES, _MAX_DESCRIPTORS = 128, 32, 64
_MODULES = ("kernel", "program", "rollout", "tree", "wire", "zygote")
_PACKAGE = ("sia_inside", *(f"sia_inside.{name}" for name in _MODULES))
PLAIN = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC


@dataclass(frozen=True)
class Confinement:
    """Facts and settings of the zygote, equal for every rollout."""

    filters: tuple[bytes, bytes]
    """BPF of the seccomp filters without and with subprocesses."""
    own_pid: int
    """Constant in the filters in place of the rollout's process id; 0 for none."""
    landlock: int
    """Version of Landlock; 0 for none."""
    readable: tuple[str, ...]
    listed: tuple[str, ...]
    """Directories that programs may list, but not read."""
    devices: tuple[str, ...]
    namespaces: bool
    """True if the rollout has its own mount, ipc and pid namespaces."""
    baseline: int
    """Address space of the idle interpreter in bytes, to which limits are added."""


@dataclass(frozen=True)
class Channels:
    """Descriptors of one rollout, in the order in which the supervisor sends them."""

    request: int
    result: int
    stdout: int
    stderr: int
    stream: int | None = None
    memory: int | None = None
    """Descriptor that becomes standard input; only with a stream."""


def enter(channels: Channels, confinement: Confinement) -> NoReturn:
    """Confine this freshly forked process, run the requested program in it, and exit."""
    result = socket.socket(fileno=channels.result)
    try:
        fields, files = wire.decode(_read_all(channels.request))
        limits, box = fields["limits"], fields["box"]
        if confinement.namespaces:
            _mount_private(limits["disk_mb"], limits["native"])
        else:
            _stand_alone(box)
        _write_files(box, files, result)
        numbers = any(b"random" in data for data in files.values())
        del files
        result.detach()
        result = _take_descriptors(box, channels)
        _enter_program(box, fields["entry"], channels.stream is not None)
        if numbers:
            _reseed()
        _set_limits(limits, confinement)
        _drop_rights(box, limits["subprocesses"], confinement)
        socket.send_fds(result, [b"started"], [_PIDFD, _BOX_FD])
        # Only now: against this limit, the kernel counts descriptors in flight of all programs of this user.
        resource.setrlimit(resource.RLIMIT_NOFILE, (_MAX_DESCRIPTORS, _MAX_DESCRIPTORS))
        result.close()
        os.closerange(_BOX_FD, _PIDFD + 1)
    except BaseException as error:  # noqa: BLE001 - after any error, no program may start
        _refuse(result, {"failed": f"{type(error).__name__}: {error}"})
    program.execute(f"{box}/{fields['entry']}")


def _refuse(result: socket.socket, fields: dict[str, Any]) -> NoReturn:
    result.send(json.dumps(fields).encode())
    os._exit(1)


def _read_all(fd: int) -> bytes:
    size = os.fstat(fd).st_size
    data = os.pread(fd, size, 0)
    while len(data) < size:
        data += os.pread(fd, size - len(data), len(data))
    return data


def _mount_private(disk_mb: int, native: bool) -> None:
    # One file system for all writes, as each further one costs every rollout time. IPC and host name stay the
    # zygote's: the filter blocks calls on them, and an IPC namespace costs more than the other two.
    kernel.unshare(kernel.CLONE_NEWNS)
    disk_mb = max(1, disk_mb)  # to tmpfs, size 0 means no limit
    flags = PLAIN & ~kernel.MS_NOEXEC if native else PLAIN
    kernel.mount("tmpfs", PRIVATE, "tmpfs", flags, f"size={disk_mb}m,nr_inodes={_MAX_FILES},mode=500")
    os.mkdir(BOX, 0o700)
    os.mkdir(SHARED_MEMORY, 0o700)


def _stand_alone(box: str) -> None:
    """Leave the zygote's session, tie this process's life to the zygote's, and make the directory."""
    zygote = os.getppid()
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != zygote:
        os._exit(1)
    os.setsid()
    os.mkdir(box, 0o700)
    os.environ["HOME"] = os.environ["TMPDIR"] = box


def _write_files(box: str, files: dict[str, bytes], result: socket.socket) -> None:
    try:
        for name, data in files.items():
            path = f"{box}/{name}"
            if "/" in name:
                os.makedirs(os.path.dirname(path), exist_ok=True)
            _write(path, data)
    except OSError as error:
        _refuse(result, {"unwritable": str(error), "disk": error.errno == errno.ENOSPC})


def _write(path: str, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    os.close(fd)


def _take_descriptors(box: str, channels: Channels) -> socket.socket:
    """Move needed descriptors to fixed numbers, and close all others; return the moved result socket."""
    folder, pidfd = os.open(box, os.O_RDONLY | os.O_DIRECTORY), os.pidfd_open(os.getpid())
    stream = channels.result if channels.stream is None else channels.stream
    # Copies above every target first, so that no dup2 below overwrites a needed descriptor.
    # Standard input is opened again: its flags and locks would stay for the next program.
    stdin = os.open("/dev/null", os.O_RDONLY) if channels.memory is None else channels.memory
    wanted = (stdin, channels.stdout, channels.stderr, stream, channels.result, folder, pidfd)
    copies = [fcntl.fcntl(fd, fcntl.F_DUPFD, 64) for fd in wanted]
    for target, fd in enumerate(copies):
        os.dup2(fd, target)
    os.closerange(_PIDFD + 1, _EVERY_FD)
    if channels.stream is None:
        os.close(_STREAM)
    return socket.socket(fileno=_RESULT)


def _enter_program(box: str, entry: str, stream: bool) -> None:
    """Make the interpreter look as if started for `entry`, and unload this package."""
    os.chdir(box)
    if stream:
        os.environ["SIA_STREAM"] = str(_STREAM)
    sys.argv[:] = [entry]
    sys.path[0] = os.path.dirname(f"{box}/{entry}")
    for name in _PACKAGE:  # by name, as walking all of sys.modules would copy many shared pages
        sys.modules.pop(name, None)


def _reseed() -> None:
    """Reseed numpy's global generator; `random` reseeds itself at a fork."""
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()


def _set_limits(limits: dict[str, Any], confinement: Confinement) -> None:
    memory = confinement.baseline + (int(limits["memory_mb"]) << 20)
    cpu = max(1, math.ceil(min(limits["cpu_s"], _LONGEST_S)))
    disk = int(limits["disk_mb"]) << 20
    tasks = _MAX_PROCESSES if limits["subprocesses"] else _MAX_THREADS
    if not confinement.namespaces:  # the kernel counts all tasks of this user on the machine
        tasks += sum(task.threads for task in tree.tasks().values() if task.uid == os.getuid())
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory + _REPORT_ROOM))
    # Soft equals hard: pid 1 ignores SIGXCPU, but not the SIGKILL of the hard limit.
    resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu))
    resource.setrlimit(resource.RLIMIT_FSIZE, (disk, disk))
    resource.setrlimit(resource.RLIMIT_NPROC, (tasks, tasks))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _drop_rights(box: str, subprocesses: bool, confinement: Confinement) -> None:
    writable = (box, SHARED_MEMORY) if confinement.namespaces else (box,)
    kernel.drop_capabilities()
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    if confinement.namespaces:  # in the other tier, the supervisor must be able to see its descriptors
        kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
    if confinement.landlock:
        readable, devices, listed = confinement.readable, confinement.devices, confinement.listed
        kernel.landlock(confinement.landlock, (*readable, box), writable, devices, listed)
    kernel.load_seccomp(_with_own_pid(confinement.filters[subprocesses], confinement.own_pid))


def _with_own_pid(bpf: bytes, stand_in: int) -> bytes:
    """Replace the constant `stand_in` in a filter by this process's id."""
    if not stand_in:
        return bpf
    code = bytearray(bpf)
    for offset in range(4, len(code), 8):  # each instruction: code, jumps, then the constant
        if struct.unpack_from("=I", code, offset) == (stand_in,):
            struct.pack_into("=I", code, offset, os.getpid())
    return bytes(code)
