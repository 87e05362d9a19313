"""Ask for a reply as a stream where the server offers that, so that its silence can be told from a long reply.

The SDKs of OpenAI and Anthropic read the streams. Here is what both need: ways to ask, the best first; a guard
that tells a stream that broke off from a request that was never answered; and the count of what has come.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Literal, TypeVar

import httpx2

from sia_core.policy.faults import BrokenOffError, GarbledError
from sia_core.policy.paid import is_silence
from sia_core.policy.protocol import Progress

E = TypeVar("E")
Way = Literal["counted", "stream", "plain"]
"""`counted`: a stream that is asked to count its tokens at the end; `stream`: without that; `plain`: one body."""

BROKEN: Final = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""Errors that an SDK raises at events that make no sense."""
_NOT_OFFERED: Final = (400, 404, 405, 415, 422, 501)
_CONNECT_S: Final = 60.0
"""Seconds allowed to connect and to send a part of the request, however long a reply may take."""
_FIELDS: Final = (b"data:", b"event:", b"id:", b"retry:", b":")
"""Beginnings of a line of a stream of events."""


class Ways:
    """Ways to ask one server; the first that it takes is kept for the process. Thread-safe."""

    def __init__(self, *ways: Way) -> None:
        self._ways = ways

    def ask(self, send: Callable[[Way], bytes]) -> bytes:
        """The answer by the first way that the server takes.

        A way is refused by one of the statuses 400, 404, 405, 415, 422 and 501, which cost nothing; where the last
        way is refused too, it was not the way's fault, and all ways stay. Raises what `send` raises.
        """
        *better, last = self._ways
        for way in better:
            try:
                answer = send(way)
            except Exception as error:
                if getattr(error, "status_code", None) not in _NOT_OFFERED:
                    raise
                continue
            self._keep(way)
            return answer
        answer = send(last)
        self._keep(last)
        return answer

    def no_stream(self, body: bytes) -> None:
        """Stream no more, if this body that the server gave in place of a stream is a reply."""
        try:
            told = json.loads(body)
        except ValueError:
            return
        if "plain" in self._ways and isinstance(told, dict) and (told.get("choices") or told.get("content")):
            self._ways = ("plain",)

    def _keep(self, way: Way) -> None:
        if way in self._ways:  # Another thread, or the answer itself, may have said otherwise.
            self._ways = (way,)


class Heard:
    """Counts the characters of a reply that have come, and tells the asker."""

    def __init__(self, tell: Progress | None) -> None:
        self._tell = tell
        self.characters = 0
        if tell is not None:
            tell(0)

    def add(self, *parts: str | None) -> None:
        """Count parts of the reply."""
        more = sum(len(part) for part in parts if part)
        self.characters += more
        if more and self._tell is not None:
            self._tell(self.characters)


def limits(silence_s: float) -> httpx2.Timeout:
    """Limits of one attempt: so much silence of a server that was reached, and less to reach it."""
    return httpx2.Timeout(silence_s, connect=min(silence_s, _CONNECT_S), write=min(silence_s, _CONNECT_S))


def plain_body(response: httpx2.Response) -> bytes | None:
    """Body of an answer that is no stream of events; None for one that is, under whatever content type."""
    if "event-stream" in response.headers.get("content-type", ""):
        return None
    body = response.read()
    return None if body.lstrip().startswith(_FIELDS) else body


def watched(events: Iterable[E]) -> Iterator[E]:
    """The events of a stream.

    Raises:
        BrokenOffError: it failed after the first event, by anything but silence.
        GarbledError: its first event makes no sense.
    """
    begun = False
    try:
        for event in events:
            begun = True
            yield event
    except Exception as error:
        if begun and not is_silence(error):
            raise BrokenOffError(error) from None
        if isinstance(error, BROKEN):
            raise GarbledError(f"a broken stream: {type(error).__name__}: {error}") from None
        raise
