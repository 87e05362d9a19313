"""Reads named files out of a directory that untrusted code filled, when that code is dead.

Regular files only. No link is followed at any step of a name, nothing that could block is waited
for, and sizes are checked before anything is read.
"""

import os
from collections.abc import Iterable

from sia_core.host.untrusted import open_regular


def collect(folder: int, names: Iterable[str], cap: int) -> dict[str, bytes] | None:
    """Contents by name below the directory `folder`; None when together they pass `cap` bytes."""
    opened: dict[str, int] = {}
    try:
        for name in dict.fromkeys(names):
            fd = open_regular(folder, name)
            if fd >= 0:
                opened[name] = fd
        if sum(os.fstat(fd).st_size for fd in opened.values()) > cap:
            return None
        return {name: _read(fd) for name, fd in opened.items()}
    finally:
        for fd in opened.values():
            os.close(fd)


def _read(fd: int) -> bytes:
    with open(fd, "rb", buffering=0, closefd=False) as file:
        return file.readall()
