"""The zygote: imports once, then forks one guard for every request, until its socket closes.

Trusted and long-lived. It never runs, imports or reads anything that untrusted code wrote: the
bytes of a request are opened by the guard only. It keeps one thread, because the calls of a
rollout need a process with one.
"""

# ruff: noqa: TID252 - inside the sandbox this package has another name, so its imports are relative

import atexit
import gc
import importlib
import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from . import kernel, rollout

_COMMON = """
argparse ast asyncio base64 bisect collections concurrent.futures contextlib copy csv dataclasses datetime "
decimal difflib enum fractions functools hashlib heapq inspect io itertools json math operator pathlib pickle
queue random re resource select selectors shutil signal socket statistics string struct tempfile textwrap
    "threading time traceback typing uuid zlib
"""


def main(control_fd: int, config_fd: int) -> None:
    """Serve the socket `control_fd`; `config_fd` holds the JSON settings, then the filter's BPF."""
    control = socket.socket(fileno=control_fd)
    settings, bpf = _read_config(config_fd)
    _leave_root(settings["uid"])
    sys.path[1:1] = settings["sdk"]
    sys.path.extend(path for path in settings["path"] if path not in sys.path)
    for name in (*_COMMON.split(), *settings["modules"]):
        importlib.import_module(name)
    version = kernel.landlock_version()
    confinement = rollout.Confinement(bpf, version, _address_space(), settings["environment"])
    atexit._clear()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # guards report to the supervisor; nobody waits here
    gc.collect()
    gc.freeze()  # keeps the collector from copying the shared pages in every rollout
    control.send(json.dumps({"pid": os.getpid(), "landlock": version}).encode())
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


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def _serve(control: socket.socket, confinement: rollout.Confinement) -> None:
    while True:
        message, fds, _, _ = socket.recv_fds(control, 16, 8)
        if not message:
            return
        if os.fork() == 0:
            control.close()
            request, result, stdout, stderr, *rest = fds
            stream = rest[0] if rest else None
            rollout.guard(
                rollout.Channels(request, socket.socket(fileno=result), stdout, stderr, stream), confinement
            )
        for fd in fds:
            os.close(fd)
