"""Signals that ask this process to end, heard even where what their handlers raise is lost.

Python drops an exception that a handler raises in a weakref's callback or a finalizer, libraries make other
errors of it, and Ray puts a handler of its own in the place of the one that was there.
"""

import ctypes
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_ASK = (signal.SIGINT, signal.SIGTERM)
_AGAIN_S = 0.1
_SIGACTION_BYTES = 1024
"""More than the C library's struct has on any machine, 152 on most."""


class _Ear:
    """The numbers of signals, as the interpreter writes them before any handler runs."""

    def __init__(self) -> None:
        self._numbers, self.written = socket.socketpair()
        self._numbers.setblocking(False)
        self.written.setblocking(False)
        self._last: int | None = None

    @property
    def last(self) -> int | None:
        """The newest signal that asked to end, if any."""
        try:
            while data := self._numbers.recv(1 << 10):
                self._last = next((number for number in reversed(data) if number in _ASK), self._last)
        except BlockingIOError:
            pass
        return self._last

    def close(self) -> None:
        self._numbers.close()
        self.written.close()


_ear: _Ear | None = None


@contextmanager
def listening() -> Iterator[None]:
    """Hear SIGINT and SIGTERM, and send one again whose exception Python dropped. Only in the main thread; once."""
    global _ear
    if _ear is not None or threading.current_thread() is not threading.main_thread():
        yield
        return
    ear, hook = _Ear(), sys.unraisablehook

    def again(dropped: Any) -> None:
        if isinstance(dropped.exc_value, Exception) or (number := ear.last) is None:
            hook(dropped)
            return
        timer = threading.Timer(_AGAIN_S, os.kill, (os.getpid(), number))
        timer.daemon = True
        timer.start()

    before = signal.set_wakeup_fd(ear.written.fileno(), warn_on_full_buffer=False)
    sys.unraisablehook, _ear = again, ear
    try:
        yield
    finally:
        _ear, sys.unraisablehook = None, hook
        signal.set_wakeup_fd(before)
        ear.close()


def asked_to_end() -> bool:
    """Return True if SIGINT or SIGTERM came since `listening` began."""
    return _ear is not None and _ear.last is not None


def interrupt(_number: int, _frame: FrameType | None) -> None:
    """A handler that makes any signal what Ctrl-C is."""
    raise KeyboardInterrupt


@contextmanager
def keeping_handler() -> Iterator[None]:
    """Put SIGTERM's handler back afterwards, also where other code than Python's has set one, from any thread."""
    handler = signal.getsignal(signal.SIGTERM)
    kernels = ctypes.create_string_buffer(_SIGACTION_BYTES)
    _sigaction(None, kernels)
    try:
        yield
    finally:
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # Only there does Python, and code in Python, set one.
        _sigaction(kernels, None)


def _sigaction(new: Any, old: Any) -> None:
    """See sigaction(2). Python's own module reaches only handlers that are Python's."""
    if ctypes.CDLL(None, use_errno=True).sigaction(signal.SIGTERM, new, old):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
