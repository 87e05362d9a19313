"""Read named files from a directory that untrusted code filled, after the code is dead.

Only regular files are read. No link is followed at any step of a name, no read can block, and sizes are
checked first.
"""

import os
from collections.abc import Iterable

from sia_core.host.untrusted import open_regular


def collect(folder: int, names: Iterable[str], cap: int) -> dict[str, bytes] | None:
    """Read files by name below the directory `folder`; return None if together they exceed `cap` bytes."""
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
