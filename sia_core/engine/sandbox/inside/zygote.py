"""The zygote: imports once, then forks one process for every request, until its socket closes.

Trusted and long-lived. It never runs, imports or reads anything that untrusted code wrote: only the
forked process opens the request. It is pid 1 of a pid namespace and owner of a user namespace of
its own, so it can give every child a new pid namespace with a single fork, and no more than that:
outside its namespaces it has no rights. It keeps one thread, which those calls demand.
"""

# ruff: noqa: TID252 - inside the sandbox this package has another name, so its imports are relative

import atexit
import contextlib
import gc
import importlib
import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

from . import kernel, rollout

_COMMON = """
argparse ast asyncio base64 bisect collections concurrent.futures contextlib copy csv dataclasses datetime decimal
difflib enum fractions functools hashlib heapq inspect io itertools json math operator pathlib pickle queue random re
resource select selectors shutil signal socket statistics string struct tempfile textwrap threading time traceback
typing uuid zlib
"""


def main(control_fd: int, config_fd: int) -> None:
    """Serve the socket `control_fd`; `config_fd` holds the JSON settings, then the filter's BPF."""
    control = socket.socket(fileno=control_fd)
    settings, bpf = _read_config(config_fd)
    _leave_root(settings["uid"])
    _offer_to_oom_killer()
    _become_init()
    os.environ.clear()
    os.environ.update(settings["environment"])
    sys.path[1:1] = settings["sdk"]
    sys.path.extend(path for path in settings["path"] if path not in sys.path)
    for name in (*_COMMON.split(), *settings["modules"]):
        importlib.import_module(name)
    version = kernel.landlock_version()
    confinement = rollout.Confinement(bpf, version, _address_space())
    atexit._clear()
    gc.collect()
    gc.freeze()  # keeps the collector from copying the shared pages in every rollout
    control.send(json.dumps({"landlock": version}).encode())
    _serve(control, confinement)


def _read_config(fd: int) -> tuple[dict[str, Any], bytes]:
    with open(fd, "rb") as file:
        settings: dict[str, Any] = json.loads(file.readline())
        return settings, file.read()


def _leave_root(uid: int | None) -> None:
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        # Changing the user made this process undumpable, and its /proc/self/uid_map root's.
        kernel.prctl(kernel.PR_SET_DUMPABLE, 1)


def _offer_to_oom_killer() -> None:
    """When the machine runs out of memory, a rollout shall go before anything else."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _become_init() -> None:
    """Go on as pid 1 in new user, pid and mount namespaces, mapped to an ordinary user."""
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


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def _serve(control: socket.socket, confinement: rollout.Confinement) -> None:
    own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    while True:
        message, fds, _, _ = socket.recv_fds(control, 16, 8)
        if not message:
            return
        kernel.unshare(kernel.CLONE_NEWPID)
        child = os.fork()
        if child == 0:
            rollout.enter(rollout.Channels(*fds), confinement)
        kernel.setns(own, kernel.CLONE_NEWPID)
        request, result, *rest = fds
        for fd in (request, *rest):
            os.close(fd)
        _report(child, socket.socket(fileno=result))


def _report(child: int, result: socket.socket) -> None:
    """Wait for the end of `child`, and of everything in its namespace, and tell how it ended."""
    _, status, usage = os.wait4(child, 0)
    with result, contextlib.suppress(OSError):  # the supervisor may have given up
        result.send(json.dumps({"status": status, "cpu_s": usage.ru_utime + usage.ru_stime}).encode())
