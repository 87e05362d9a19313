"""Notice signals that ask this process to end, even if exceptions of their handlers are lost.

Python drops an exception that a handler raises in a weakref's callback or a finalizer, libraries turn it into other
errors, and Ray replaces an existing handler by its own.
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
"""Size of a buffer for the C library's struct, which takes 152 bytes on most machines."""


class _Ear:
    """Receiver of signal numbers, which the interpreter writes before any handler runs."""

    def __init__(self) -> None:
        self._numbers, self.written = socket.socketpair()
        self._numbers.setblocking(False)
        self.written.setblocking(False)
        self._last: int | None = None

    @property
    def last(self) -> int | None:
        """Newest signal that asked to end, if any."""
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
    """Notice SIGINT and SIGTERM in the main thread, and resend a signal whose exception Python dropped."""
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
    """Handle any signal like Ctrl-C."""
    raise KeyboardInterrupt


@contextmanager
def keeping_handler() -> Iterator[None]:
    """Restore SIGTERM's handler afterwards, even if code outside Python or another thread has set one."""
    handler = signal.getsignal(signal.SIGTERM)
    kernels = ctypes.create_string_buffer(_SIGACTION_BYTES)
    _sigaction(None, kernels)
    try:
        yield
    finally:
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # Python code can set handlers only in this thread.
        _sigaction(kernels, None)


def _sigaction(new: Any, old: Any) -> None:
    """Call sigaction(2), because Python's module reaches only Python's handlers."""
    if ctypes.CDLL(None, use_errno=True).sigaction(signal.SIGTERM, new, old):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
