"""One rollout: from a fresh fork of the zygote to untrusted code with every right taken off.

In the strict tier the process is pid 1 of its own pid namespace: its death ends every process in
it. It mounts its private directory in a mount namespace of its own; the mount ends with the last of
its users. In the tier `landlock` it has neither: its directory is an ordinary one, which the
supervisor removes, and the zygote ends what it leaves running.

It writes the program's files, hands the supervisor two descriptors - one on itself, to kill it, and
one on the directory, to collect from when it is dead - and gives up everything else. How it ended
is for the zygote to say, over a socket that is closed here before the program starts: a program can
forge its own output, and nothing more.

Every page that this process touches first is a fault and a copy, and they are most of a rollout's
cost: hence plain `os` calls rather than `pathlib`.
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
"""Where the strict tier mounts what a program may write to."""
BOX, SHARED_MEMORY = f"{PRIVATE}/work", f"{PRIVATE}/shm"
"""In it: the program's directory, and what /dev/shm leads to."""
_MAX_THREADS, _MAX_PROCESSES, _MAX_DESCRIPTORS = 128, 32, 64
_MODULES = ("kernel", "program", "rollout", "tree", "wire", "zygote")
_PACKAGE = ("sia_inside", *(f"sia_inside.{name}" for name in _MODULES))
PLAIN = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC


@dataclass(frozen=True)
class Confinement:
    """Facts and settings that the zygote found or was given once, equal for every rollout."""

    filters: tuple[bytes, bytes]
    """BPF of the seccomp filter: without subprocesses, and with."""
    own_pid: int
    """Constant in the filters that stands for the rollout's own process id; 0 when there is none."""
    landlock: int
    """Version; 0 when the kernel has none."""
    readable: tuple[str, ...]
    listed: tuple[str, ...]
    """Directories of which only the names may be read."""
    devices: tuple[str, ...]
    namespaces: bool
    """True if the rollout has mount, ipc and pid namespaces of its own."""
    baseline: int
    """Address space of the idle interpreter, in bytes; limits count from there."""


@dataclass(frozen=True)
class Channels:
    """Descriptors of one rollout, in the order in which the supervisor sends them."""

    request: int
    result: int
    stdout: int
    stderr: int
    stream: int | None = None
    memory: int | None = None
    """Becomes standard input. Never without a stream."""


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
        # Not before: the kernel holds what all programs of this user have in flight against this limit.
        resource.setrlimit(resource.RLIMIT_NOFILE, (_MAX_DESCRIPTORS, _MAX_DESCRIPTORS))
        result.close()
        os.closerange(_BOX_FD, _PIDFD + 1)
    except BaseException as error:  # noqa: BLE001 - whatever it is, no program may start
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
    # One file system for all that a program may write: each more costs every rollout. IPC and host name
    # stay the zygote's: no call that touches them passes the filter, and an IPC namespace costs more than both.
    kernel.unshare(kernel.CLONE_NEWNS)
    disk_mb = max(1, disk_mb)  # to tmpfs, size 0 means no limit
    flags = PLAIN & ~kernel.MS_NOEXEC if native else PLAIN
    kernel.mount("tmpfs", PRIVATE, "tmpfs", flags, f"size={disk_mb}m,nr_inodes={_MAX_FILES},mode=500")
    os.mkdir(BOX, 0o700)
    os.mkdir(SHARED_MEMORY, 0o700)


def _stand_alone(box: str) -> None:
    """Leave the zygote's session, end with the zygote, and make the directory."""
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
    """Move what is still needed to fixed numbers and close all else; the result socket, moved."""
    folder, pidfd = os.open(box, os.O_RDONLY | os.O_DIRECTORY), os.pidfd_open(os.getpid())
    stream = channels.result if channels.stream is None else channels.stream
    # Copies above every target first, so that no dup2 below overwrites one still needed.
    # Standard input is opened anew: its flags and locks would stay for the next program.
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
    """Make the interpreter look as if it had been started for `entry`; forget this package."""
    os.chdir(box)
    if stream:
        os.environ["SIA_STREAM"] = str(_STREAM)
    sys.argv[:] = [entry]
    sys.path[0] = os.path.dirname(f"{box}/{entry}")
    for name in _PACKAGE:  # by name: to walk all of sys.modules would copy many shared pages
        sys.modules.pop(name, None)


def _reseed() -> None:
    """Give numpy's global generator a state of its own; `random` does so by itself at a fork."""
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
    # Soft equals hard: pid 1 is immune to SIGXCPU, but not to the SIGKILL of the hard limit.
    resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu))
    resource.setrlimit(resource.RLIMIT_FSIZE, (disk, disk))
    resource.setrlimit(resource.RLIMIT_NPROC, (tasks, tasks))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _drop_rights(box: str, subprocesses: bool, confinement: Confinement) -> None:
    writable = (box, SHARED_MEMORY) if confinement.namespaces else (box,)
    kernel.drop_capabilities()
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    if confinement.namespaces:  # elsewhere the supervisor must be able to look at its descriptors
        kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
    if confinement.landlock:
        readable, devices, listed = confinement.readable, confinement.devices, confinement.listed
        kernel.landlock(confinement.landlock, (*readable, box), writable, devices, listed)
    kernel.load_seccomp(_with_own_pid(confinement.filters[subprocesses], confinement.own_pid))


def _with_own_pid(bpf: bytes, stand_in: int) -> bytes:
    """The filter with this process's id for the constant `stand_in`, wherever one is compared with."""
    if not stand_in:
        return bpf
    code = bytearray(bpf)
    for offset in range(4, len(code), 8):  # each instruction: code, jumps, then the constant
        if struct.unpack_from("=I", code, offset) == (stand_in,):
            struct.pack_into("=I", code, offset, os.getpid())
    return bytes(code)
