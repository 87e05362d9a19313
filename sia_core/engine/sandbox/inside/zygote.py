"""The zygote: imports once, then forks one process for every request, until its socket closes.

The zygote is trusted and long-lived. It never runs, imports or reads anything that untrusted code wrote:
only the forked process opens the request. In the strict tier, the zygote is pid 1 of a pid namespace and
owner of its own user namespace, so it can give every child a new pid namespace with a single fork, but
has no rights outside its namespaces. These calls require a single thread.

In the tier `landlock`, a guard above the zygote adopts orphans; when the zygote or the supervisor dies,
the guard ends every process and removes every file.
"""

# ruff: noqa: TID252 - inside the sandbox this package has another name, so its imports are relative

import atexit
import contextlib
import gc
import importlib
import json
import os
import resource
import signal
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

from . import kernel, rollout, tree

_COMMON = """
argparse ast asyncio base64 bisect collections concurrent.futures contextlib copy csv dataclasses datetime decimal
difflib enum fractions functools hashlib heapq inspect io itertools json math operator pathlib pickle queue random re
resource select selectors shutil signal socket statistics string struct subprocess tempfile textwrap threading time
traceback typing uuid zlib
"""
_FIRST_UID = 1_000_000_000
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")


def main(control_fd: int, config_fd: int) -> None:
    """Serve requests on the socket `control_fd`; `config_fd` holds the JSON settings, then the filters' BPF."""
    control = socket.socket(fileno=control_fd)
    settings, own_filter, *filters = _read_config(config_fd)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # otherwise descriptors in flight elsewhere stop a rollout
    folder = _become_init(settings) if settings["namespaces"] else _stand_under_guard(settings)
    os.environ.clear()
    os.environ.update(settings["environment"])
    sys.path[1:1] = settings["sdk"]
    sys.path.extend(path for path in settings["path"] if path not in sys.path)
    tempfile.tempdir = os.environ["TMPDIR"]  # some modules look for a temporary directory at import
    for name in (*_COMMON.split(), *settings["modules"]):
        importlib.import_module(name)
    tempfile.tempdir = None
    confinement = _confinement(settings, (filters[0], filters[1]))
    atexit._clear()
    gc.collect()
    gc.freeze()  # keeps the collector from copying the shared pages in every rollout
    own = _confine_itself(own_filter) if confinement.namespaces else -1
    control.send(json.dumps({"landlock": confinement.landlock, "folder": folder}).encode())
    if confinement.namespaces:
        _serve_namespaces(control, confinement, own)
    else:
        _serve_processes(control, confinement)


def _read_config(fd: int) -> tuple[Any, ...]:
    """Read the settings and the filters."""
    with open(fd, "rb") as file:
        settings: dict[str, Any] = json.loads(file.readline())
        return (settings, *map(file.read, settings["filter_bytes"]))


def _confinement(settings: dict[str, Any], filters: tuple[bytes, bytes]) -> rollout.Confinement:
    return rollout.Confinement(
        filters,
        settings["own_pid"],
        kernel.landlock_version(),
        tuple(settings["readable"]),
        tuple(settings["listed"]),
        ("/dev",) if settings["namespaces"] else _DEVICES,
        settings["namespaces"],
        _address_space(),
    )


def _leave_root(uid: int | None) -> None:
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        # Changing the user made this process undumpable, and its /proc/self/uid_map root's.
        kernel.prctl(kernel.PR_SET_DUMPABLE, 1)


def _offer_to_oom_killer() -> None:
    """Make the kernel kill a rollout first when the machine runs out of memory."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _become_init(settings: dict[str, Any]) -> str:
    """Continue as pid 1 in new user, pid and mount namespaces, mapped to an ordinary user."""
    _leave_root(settings["uid"])
    _offer_to_oom_killer()
    uid, gid = os.geteuid(), os.getegid()
    kernel.unshare(kernel.CLONE_NEWUSER | kernel.CLONE_NEWPID | kernel.CLONE_NEWNS)
    for name, line in (("setgroups", "deny"), ("uid_map", f"1000 {uid} 1"), ("gid_map", f"1000 {gid} 1")):
        Path("/proc/self", name).write_text(line)
    kernel.drop_bounding_set()
    kernel.mount("none", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        os._exit(1)
    return rollout.BOX


def _confine_itself(bpf: bytes) -> int:
    """Hide /proc, and drop all calls that neither the zygote nor a program needs, once for all rollouts.

    Returns a descriptor of the zygote's own pid namespace.
    """
    own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    kernel.mount("tmpfs", "/proc", "tmpfs", rollout.PLAIN | kernel.MS_RDONLY, "size=4k,nr_inodes=1")
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    kernel.load_seccomp(bpf)
    return own


def _stand_under_guard(settings: dict[str, Any]) -> str:
    """Continue as a child of the guard, without root; return the folder of the programs' directories."""
    _die_with(settings["parent"], signal.SIGTERM, {signal.SIGTERM, signal.SIGCHLD})
    with contextlib.suppress(OSError):  # only root can and must drop it
        kernel.drop_bounding_set()
    _leave_root(_own_uid(settings["uid"]))
    _die_with(settings["parent"], signal.SIGTERM, set())  # again, as the change of user reset it
    _offer_to_oom_killer()
    kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
    folder = tempfile.mkdtemp(prefix="sia-landlock-", dir=settings["temporary"])
    guard = os.getpid()
    zygote = os.fork()
    if zygote:
        _guard(zygote, folder)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGCHLD})
    _die_with(guard, signal.SIGKILL, set())
    kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
    return folder


def _own_uid(base: int | None) -> int | None:
    """Choose a user id for this zygote alone, so that programs of two zygotes cannot reach each other."""
    if base is None:
        return None
    mapped = Path("/proc/self/uid_map").read_text().split()
    return base if int(mapped[2]) <= _FIRST_UID + os.getpid() else _FIRST_UID + os.getpid()


def _die_with(parent: int, number: int, blocked: set[int]) -> None:
    """Request signal `number` when the parent ends; `blocked` signals stay pending until waited for."""
    signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    kernel.prctl(kernel.PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os._exit(1)


def _guard(zygote: int, folder: str) -> None:
    """Wait for the end of the zygote or of the supervisor, then end all processes and remove all files."""
    try:
        os.closerange(3, 1 << 20)  # the control socket must be the zygote's alone
        while signal.sigwait({signal.SIGTERM, signal.SIGCHLD}) == signal.SIGCHLD:
            tree.reap()
            os.kill(zygote, 0)
    except ProcessLookupError:
        pass
    finally:
        try:
            tree.end_below(os.getpid())
        finally:
            tree.remove(folder)
            os._exit(0)


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def _serve_namespaces(control: socket.socket, confinement: rollout.Confinement, own: int) -> None:
    while fds := _request(control):
        kernel.unshare(kernel.CLONE_NEWPID)
        child = os.fork()
        if child == 0:
            rollout.enter(rollout.Channels(*fds), confinement)
        kernel.setns(own, kernel.CLONE_NEWPID)
        result = _own_end(fds)
        _, status, usage = os.wait4(child, 0)  # returns when its whole namespace is empty
        _report(result, status, usage.ru_utime + usage.ru_stime)


def _serve_processes(control: socket.socket, confinement: rollout.Confinement) -> None:
    while fds := _request(control):
        child = os.fork()
        if child == 0:
            rollout.enter(rollout.Channels(*fds), confinement)
        result = _own_end(fds)
        _, status, usage = os.wait4(child, 0)
        tree.end_below(os.getpid())
        tree.reap()
        _report(result, status, usage.ru_utime + usage.ru_stime)


def _request(control: socket.socket) -> list[int]:
    """Receive the descriptors of the next rollout; empty at the end."""
    _, fds, _, _ = socket.recv_fds(control, 16, 8)
    return fds


def _own_end(fds: list[int]) -> socket.socket:
    request, result, *rest = fds
    for fd in (request, *rest):
        os.close(fd)
    return socket.socket(fileno=result)


def _report(result: socket.socket, status: int, cpu_s: float) -> None:
    """Report the end of a program."""
    with result, contextlib.suppress(OSError):  # the supervisor may have given up
        result.send(json.dumps({"status": status, "cpu_s": cpu_s}).encode())
