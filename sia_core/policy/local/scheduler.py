"""Continuous batching: one thread serves the requests of many.

Between two steps, the scheduler admits waiting requests while there is room. The parts that a request
computes alone (its prompt, its options) are computed at admission. An unfinished reply is `Live` and advances
by one token in every step, in one forward pass with all others. When a reply is done, the next request takes
its place.

An error while a request is admitted or sampled fails only that request. An error in a joint step
fails the requests in flight, each with its own `EndpointError`; waiting requests continue.
"""

import queue
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Final

import torch

from sia_core.domain.errors import SiaError
from sia_core.policy.protocol import EndpointError

_MEMORY: Final = ("out of memory", "can't allocate memory", "not enough memory")


class Live(ABC):
    """A reply that is being sampled."""

    @property
    @abstractmethod
    def done(self) -> bool:
        """True if the reply needs no further token."""

    @abstractmethod
    def take(self, logits_V: torch.Tensor) -> None:
        """Sample the next token."""

    @abstractmethod
    def result(self) -> Any:
        """Return the value that `Scheduler.run` returns, once the reply is done."""


Step = Callable[[Sequence[Any]], torch.Tensor]
"""Feeds the last token of each live reply in one forward pass, and returns a row of logits for each."""


@dataclass(eq=False)
class _Request:
    start: Callable[[], Any]
    future: "Future[Any]" = field(default_factory=Future)


_Flight = tuple[Live, _Request]


class Scheduler:
    """Runs functions in its own thread, which starts with the first request."""

    def __init__(self, step: Step, batch: int, where: str) -> None:
        self._step, self._batch, self._where = step, batch, where
        self._waiting: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False

    def run(self, start: Callable[[], Any]) -> Any:
        """Call `start` in the scheduler's thread, and wait for its result; for a `Live`, for the reply.

        Raises:
            EndpointError: the computation failed, or the scheduler is closed.
            SiaError: an error of `start`.
        """
        request = _Request(start)
        with self._lock:
            if self._closed:
                raise self._failure("the policy is closed")
            self._waiting.put(request)
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name="local policy", daemon=True)
                self._thread.start()
        try:
            return request.future.result()
        finally:
            request.future.cancel()  # An interrupted caller does not wait for the rest.

    def close(self) -> None:
        """Fail requests that wait or are in flight, and end the thread. A second call does nothing."""
        with self._lock:
            self._closed = True
            thread = self._thread
        self._waiting.put(None)
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _serve(self) -> None:
        live: list[_Flight] = []
        why = "the policy's thread ended"
        try:
            with torch.inference_mode():
                while not self._closed:
                    self._admit(live)
                    self._advance(live)
            why = "the policy was closed"
        finally:
            with self._lock:
                self._thread = None
                left = [request for _, request in live]
                while not self._waiting.empty():
                    if (request := self._waiting.get()) is not None:
                        left.append(request)
            self._fail(left, why)

    def _admit(self, live: list[_Flight]) -> None:
        """Start waiting requests while there is room; wait for one when nothing is live."""
        while len(live) < self._batch and not self._closed:
            try:
                request = self._waiting.get(block=not live)
            except queue.Empty:
                return
            if request is None or request.future.cancelled():
                continue
            try:
                started = request.start()
            except Exception as error:  # noqa: BLE001  (any error is this request's answer)
                _refuse(request, self._translate(error))
                continue
            if not isinstance(started, Live):
                _answer(request, started)
            elif started.done:
                _answer(request, started.result())
            else:
                live.append((started, request))

    def _advance(self, live: list[_Flight]) -> None:
        """Sample one token for each live request that is not cancelled."""
        live[:] = [flight for flight in live if not flight[1].future.cancelled()]
        if not live:
            return
        try:
            logits = self._step([reply for reply, _ in live])
        except Exception as error:  # noqa: BLE001  (their caches are in an unknown state)
            failure = self._translate(error)
            self._fail([request for _, request in live], failure.what, failure.hint)
            live.clear()
            return
        for flight, logits_V in zip(tuple(live), logits, strict=True):
            reply, request = flight
            try:
                reply.take(logits_V)
                if not reply.done:
                    continue
                _answer(request, reply.result())
            except Exception as error:  # noqa: BLE001  (a row's error is that row's)
                _refuse(request, self._translate(error))
            live.remove(flight)

    def _fail(self, requests: Sequence[_Request], why: str, hint: str = "") -> None:
        for request in requests:
            _refuse(request, self._failure(why, hint))

    def _translate(self, error: Exception) -> SiaError:
        if isinstance(error, SiaError):
            return error
        lines = str(error).strip().splitlines() or ["no message"]
        memory = isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(w in str(error) for w in _MEMORY)
        if memory and torch.cuda.is_available():
            torch.cuda.empty_cache()
        hint = "serve fewer requests at a time, or shorter ones" if memory else ""
        return self._failure(f"the model failed: {type(error).__name__}: {lines[0][:300]}", hint)

    def _failure(self, what: str, hint: str = "") -> EndpointError:
        return EndpointError(what, where=self._where, hint=hint)


def _answer(request: _Request, result: object) -> None:
    if request.future.set_running_or_notify_cancel():
        request.future.set_result(result)


def _refuse(request: _Request, error: Exception) -> None:
    if request.future.set_running_or_notify_cancel():
        request.future.set_exception(error)
