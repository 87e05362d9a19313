"""End the processes and remove the folder that a program left behind, without the help of a namespace.

Used by the zygote, by the guard above it, and by the supervisor. Every process of a program stays a descendant
of the zygote, which is a subreaper: an orphan's next parent is the nearest subreaper above.
"""

import contextlib
import os
import signal
import stat
import time
from dataclasses import dataclass

_PATIENCE_S = 5.0
_PAUSE_S = 0.002
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Task:
    """Fields of /proc/PID/stat."""

    parent: int
    state: str
    threads: int
    cpu_s: float
    """CPU seconds of the process and of the children that it waited for."""
    uid: int


def tasks() -> dict[int, Task]:
    """Return every visible process, by process id."""
    found = {}
    for name in os.listdir("/proc"):  # noqa: PTH208 - runs every few milliseconds
        if name.isdecimal():
            with contextlib.suppress(OSError):  # the process has just ended
                found[int(name)] = _task(name)
    return found


def _task(pid: str) -> Task:
    fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    try:
        uid, text = os.fstat(fd).st_uid, os.read(fd, 4096)
    finally:
        os.close(fd)
    fields = text.rpartition(b")")[2].split()
    ticks = sum(map(int, fields[11:15]))
    return Task(int(fields[1]), fields[0].decode(), int(fields[17]), ticks / _TICKS, uid)


def below(root: int, among: dict[int, Task]) -> set[int]:
    """Return the descendants of `root`."""
    children: dict[int, list[int]] = {}
    for pid, task in among.items():
        children.setdefault(task.parent, []).append(pid)
    found, todo = set[int](), [root]
    while todo:
        new = children.get(todo.pop(), [])
        found.update(new)
        todo += new
    return found


def end_below(root: int) -> None:
    """Kill and collect every descendant of this process, `root`, until there is none.

    Raises TimeoutError when descendants persist.

    Dead processes count until they are collected: a process that forks and ends while the list is read may hide its
    child, but not itself, as only `root` collects orphans.
    """
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        reap()
        now = tasks()
        left = below(root, now)
        if not left:
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"{len(left)} processes do not end")
        for pid in left:
            if now[pid].state not in "ZX":
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(_PAUSE_S)


def reap() -> None:
    """Wait for every child of this process that has ended."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def remove(path: str) -> None:
    """Remove a directory of a dead program, with any contents. Idempotent.

    Nested directories are first moved to the top, so that any depth works.
    """
    with contextlib.suppress(FileNotFoundError):
        os.chmod(path, 0o700)  # noqa: PTH101 - beside its siblings
        top = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            _empty(top)
        finally:
            os.close(top)
        os.rmdir(path)  # noqa: PTH106


def _empty(top: int) -> None:
    token, moved = os.urandom(8).hex(), 0
    while names := os.listdir(top):
        for name in names:
            if not stat.S_ISDIR(os.stat(name, dir_fd=top, follow_symlinks=False).st_mode):
                os.unlink(name, dir_fd=top)
                continue
            os.chmod(name, 0o700, dir_fd=top)
            inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=top)
            try:
                for child in os.listdir(inner):  # noqa: PTH208
                    moved += 1
                    _lift(child, inner, f"{token}-{moved}", top)
            finally:
                os.close(inner)
            os.rmdir(name, dir_fd=top)


def _lift(name: str, folder: int, new: str, top: int) -> None:
    if not stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
        os.unlink(name, dir_fd=folder)
        return
    os.chmod(name, 0o700, dir_fd=folder)  # needed to change its `..`
    os.rename(name, new, src_dir_fd=folder, dst_dir_fd=top)
