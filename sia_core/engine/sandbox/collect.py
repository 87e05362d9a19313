"""Reads named files out of a directory that untrusted code filled, when that code is dead.

Regular files only. No link is followed at any step of a name, nothing that could block is waited
for, and sizes are checked before anything is read.
"""

import os
import stat
from collections.abc import Iterable
from pathlib import PurePosixPath

_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


def collect(folder: int, names: Iterable[str], cap: int) -> dict[str, bytes] | None:
    """Contents by name below the directory `folder`; None when together they pass `cap` bytes."""
    opened: dict[str, int] = {}
    try:
        for name in dict.fromkeys(names):
            fd = _open_regular(folder, name)
            if fd >= 0:
                opened[name] = fd
        if sum(os.fstat(fd).st_size for fd in opened.values()) > cap:
            return None
        return {name: _read(fd) for name, fd in opened.items()}
    finally:
        for fd in opened.values():
            os.close(fd)


def _open_regular(folder: int, name: str) -> int:
    """A descriptor on the file `name`; -1 when there is none, or a link on the way, or no file."""
    fd = os.dup(folder)
    for part in PurePosixPath(name).parts:
        parent = fd
        try:
            fd = os.open(part, _FLAGS, dir_fd=parent)
        except OSError:
            return -1
        finally:
            os.close(parent)
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    return -1


def _read(fd: int) -> bytes:
    with open(fd, "rb", buffering=0, closefd=False) as file:
        return file.readall()
