"""Know whether a server behind a UI is still in use: its users hold a shared lock on a file, its keeper writes one.

The lock of a process ends with the process, however that ends. So the server of a run that was killed ends too.
"""

import fcntl
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sia_core.host.home import private_directory

_CHECK_S = 2.0
_UNUSED_S = 10.0
"""Seconds without a user after which a server ends: a command that follows at once finds it still there."""
_held: dict[Path, int] = {}
"""Descriptors of the locks that this process holds."""


def use(home: Path, name: str) -> None:
    """Keep a server from ending while this process lives, or until `leave`. Idempotent.

    The lock survives `exec`, and no child inherits it.
    """
    file = _file(home, name)
    if file not in _held:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        _held[file] = descriptor


def hand_on(home: Path, name: str) -> None:
    """Let the program that replaces this one keep the lock."""
    if (descriptor := _held.get(_file(home, name))) is not None:
        os.set_inheritable(descriptor, True)


def leave(home: Path, name: str) -> None:
    """Give the lock back."""
    if (descriptor := _held.pop(_file(home, name), None)) is not None:
        os.close(descriptor)


def keep(home: Path, name: str) -> None:
    """Keep a server up without a user, until `unkeep`."""
    _mark(home, name).touch(mode=0o600)


def unkeep(home: Path, name: str) -> None:
    """Let a server end when its last user has left."""
    _mark(home, name).unlink(missing_ok=True)


@contextmanager
def unused(home: Path, name: str) -> Iterator[bool]:
    """Yield True if no process uses the server and nobody keeps it. New users wait until the block ends."""
    descriptor = os.open(_file(home, name), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        yield _locked(descriptor) and not _mark(home, name).exists()
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def end_when_unused(home: Path, name: str, forget_server: Callable[[], None]) -> None:
    """End this process, a server, once nobody has used it for a while; first, nobody may find it any more."""
    seen = time.monotonic()
    while True:
        time.sleep(_CHECK_S)
        with unused(home, name) as is_unused:
            if not is_unused:
                seen = time.monotonic()
            elif time.monotonic() - seen > _UNUSED_S:
                forget_server()
                os.kill(os.getpid(), signal.SIGTERM)
                return


def _file(home: Path, name: str) -> Path:
    return private_directory(home / "services") / f"{name}.use"


def _mark(home: Path, name: str) -> Path:
    return private_directory(home / "services") / f"{name}.kept"
