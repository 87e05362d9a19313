"""Guards for usage that no kernel limit can count, measured from outside while a program runs.

Each guard is called every few milliseconds and returns the reason to kill the program, so a program may
exceed its limit by its usage in that time.
"""

import contextlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from sia_core.domain.lab import Limits
from sia_core.engine.sandbox.inside import tree
from sia_core.engine.sandbox.outcome import Killer
from sia_core.engine.sandbox.supervise import Guard

_PAGE_MB = os.sysconf("SC_PAGE_SIZE") / (1 << 20)
_BLOCK = 512
_MAX_FILES = 4096
_QUEUED = 8


def both(*guards: Guard) -> Guard:
    """Combine guards: the first reason of any of them."""
    return lambda pid: next((why for guard in guards if (why := guard(pid))), None)


class TreeGuard:
    """Limits memory and CPU time of a process and its descendants together.

    Memory is the sum of resident pages. If the sum exceeds the limit, the proportional share (PSS) decides, if the
    kernel reports it: PSS counts pages that processes share only once.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    def __call__(self, pid: int) -> Killer | None:
        now = tree.tasks()
        members = [member for member in (pid, *tree.below(pid, now)) if member in now]
        if sum(now[member].cpu_s for member in members) > self._limits.cpu_s:
            return "cpu"
        if _total(members, _resident_mb) <= self._limits.memory_mb:
            return None
        return "memory" if _total(members, pss_mb) > self._limits.memory_mb else None


def pss_mb(pid: int) -> float:
    """Return the proportional share of memory in MB; resident memory if the kernel does not report it."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except PermissionError:
        return _resident_mb(pid)
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("Pss:")), 0.0)


def _resident_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_MB


def _total(members: Iterable[int], measure: Callable[[int], float]) -> float:
    total = 0.0
    for member in members:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # the process has just ended
            total += measure(member)
    return total


class FolderGuard:
    """Limits the bytes and files that a program holds in a directory of the machine's own file system.

    Files below the directory count, and removed files that are still open. A removed file that is only mapped, or
    waits in a socket, cannot always be measured, and counts as too large.
    """

    def __init__(self, box: Path, limits: Limits) -> None:
        self._box, self._limits = box, limits

    def __call__(self, pid: int) -> Killer | None:
        members, allowed = {pid}, 0
        if self._limits.subprocesses:
            members |= tree.below(pid, tree.tasks())
            allowed = _QUEUED  # processes hand each other descriptors
        try:
            held = dict(_files_below(self._box))
            for member in members:
                held |= _removed_files(member, self._box, allowed)
        except OSError:  # too many files, a path too long, a directory that cannot be read
            return "disk"
        return "disk" if sum(held.values()) > self._limits.disk_mb << 20 else None


_Held = dict[tuple[int, int], int]


def _files_below(top: Path) -> Iterator[tuple[tuple[int, int], int]]:
    """Yield device and inode, and bytes on disk, of each file."""
    count, todo = 0, [str(top)]
    while todo:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(todo.pop()) as entries:
            for entry in entries:
                count += 1
                if count > _MAX_FILES:
                    raise OSError(f"more than {_MAX_FILES} files")
                with contextlib.suppress(FileNotFoundError):
                    found = entry.stat(follow_symlinks=False)
                    yield (found.st_dev, found.st_ino), found.st_blocks * _BLOCK
                    if stat.S_ISDIR(found.st_mode):
                        todo.append(entry.path)


def _removed_files(pid: int, box: Path, allowed: int) -> _Held:
    held: _Held = {}
    queued = 0
    with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):  # the process is about to end
        for name in os.listdir(f"/proc/{pid}/fd"):  # noqa: PTH208 - many times a second
            with contextlib.suppress(FileNotFoundError):
                found = os.stat(f"/proc/{pid}/fd/{name}")  # noqa: PTH116
                if stat.S_ISREG(found.st_mode) and not found.st_nlink:
                    held[found.st_dev, found.st_ino] = found.st_blocks * _BLOCK
                elif stat.S_ISSOCK(found.st_mode):
                    queued += _descriptors_queued(pid, name)
        if queued > allowed:
            raise OSError("open files wait in a socket")
        inodes = {inode for _, inode in held}
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            if line.endswith("(deleted)") and f" {box}/" in line and int(line.split()[4]) not in inodes:
                raise OSError("a removed file is mapped")
    return held


def _descriptors_queued(pid: int, fd: str) -> int:
    """Return the number of descriptors that were sent to this socket and not yet received."""
    lines = Path(f"/proc/{pid}/fdinfo/{fd}").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("scm_fds:"))
