"""Asking a process to end, where the exception of a signal's handler does not reach the code that is running."""

import ctypes
import signal
import sys
import time
import weakref
from collections.abc import Iterator
from threading import Thread

import pytest

from sia_core.host.signals import asked_to_end, interrupt, keeping_handler, listening


class _Thing:
    pass


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, interrupt)
    yield
    signal.signal(signal.SIGTERM, before)


def _drop(number: signal.Signals) -> None:
    """Have the handler run in a weakref's callback, which loses what it raises."""
    thing = _Thing()
    kept = weakref.ref(thing, lambda _: signal.raise_signal(number))
    del thing
    assert kept() is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_whose_exception_python_drops_comes_again(number: signal.Signals) -> None:
    with listening():
        _drop(number)
        assert asked_to_end()
        with pytest.raises(KeyboardInterrupt):
            time.sleep(20)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_without_it_the_signal_is_lost() -> None:
    _drop(signal.SIGTERM)
    time.sleep(0.3)
    assert not asked_to_end()


def test_signal_is_known_whichever_handler_takes_it() -> None:
    signal.signal(signal.SIGTERM, lambda *_: None)
    with listening():
        with listening():
            assert not asked_to_end()
            signal.raise_signal(signal.SIGTERM)
        assert asked_to_end()
    assert not asked_to_end()


def test_another_signal_does_not_ask_to_end() -> None:
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        with listening():
            signal.raise_signal(signal.SIGUSR1)
            assert not asked_to_end()
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_other_exceptions_that_are_dropped_are_told_of_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    told = []
    monkeypatch.setattr(sys, "unraisablehook", lambda dropped: told.append(dropped.exc_value))
    error = ValueError("dropped")

    def fail(_: object) -> None:
        raise error

    with listening():
        thing = _Thing()
        kept = weakref.ref(thing, fail)
        del thing
    assert kept() is None
    assert told == [error]


def test_handler_is_put_back() -> None:
    with keeping_handler():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    assert signal.getsignal(signal.SIGTERM) is interrupt


def test_handler_is_put_back_in_a_thread() -> None:
    def replace() -> None:
        with keeping_handler():
            ctypes.CDLL(None).signal(signal.SIGTERM, signal.SIG_IGN)

    thread = Thread(target=replace)
    thread.start()
    thread.join()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)


def test_handler_is_restored_where_another_was_set_in_the_kernel() -> None:
    with keeping_handler():
        ctypes.CDLL(None).signal(signal.SIGTERM, signal.SIG_IGN)
        signal.raise_signal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)
