"""Request replies as streams where the server offers them, to distinguish a silent server from a long reply.

The SDKs of OpenAI and Anthropic read the streams. This module has the shared parts: ways to ask, in order of
preference, a guard that distinguishes a stream that broke off from a request without an answer, and a counter of
received characters.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, Literal, TypeVar

import httpx2
from pydantic import BaseModel, ValidationError

from sia_core.policy.faults import BrokenOffError, GarbledError
from sia_core.policy.paid import is_silence
from sia_core.policy.protocol import Progress

E = TypeVar("E")
P = TypeVar("P", bound=BaseModel)
Way = Literal["counted", "stream", "plain"]
"""`counted`: a stream with a token count at the end, `stream`: a stream without a count, `plain`: one body."""

BROKEN: Final = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""Errors that an SDK raises at invalid events."""
_NOT_OFFERED: Final = (400, 404, 405, 415, 422, 501)
_CONNECT_S: Final = 60.0
"""Maximum seconds to connect and to send a part of the request."""
_FIELDS: Final = (b"data:", b"event:", b"id:", b"retry:", b":")
"""Beginnings of lines in a stream of events."""


class Ways:
    """Ways to ask one server; the first accepted way is kept for the process. Thread-safe."""

    def __init__(self, *ways: Way) -> None:
        self._ways = ways

    def ask(self, send: Callable[[Way], bytes]) -> bytes:
        """Return the answer by the first way that the server accepts.

        Statuses 400, 404, 405, 415, 422 and 501, which cost nothing, refuse a way. If the last way is refused too,
        the ways are not the cause, and all are kept. Raises any error of `send`.
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
        """Stop streaming if the server sent a reply in place of a stream."""
        try:
            reply = json.loads(body)
        except (ValueError, RecursionError):
            return
        if "plain" in self._ways and isinstance(reply, dict) and (reply.get("choices") or reply.get("content")):
            self._ways = ("plain",)

    def _keep(self, way: Way) -> None:
        if way in self._ways:  # Another thread, or `no_stream`, may have removed the way.
            self._ways = (way,)


class Heard:
    """Counts the received characters of a reply, and reports the count to the caller."""

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
    """Timeouts of one attempt: the silence limit, and a shorter limit to reach the server."""
    return httpx2.Timeout(silence_s, connect=min(silence_s, _CONNECT_S), write=min(silence_s, _CONNECT_S))


def plain_body(response: httpx2.Response) -> bytes | None:
    """Return the body of an answer; None for a stream of events, of any content type."""
    if "event-stream" in response.headers.get("content-type", ""):
        return None
    body = response.read()
    return None if body.lstrip().startswith(_FIELDS) else body


def read_part(kind: type[P], part: Any, name: str) -> P:
    """Check a part of a stream, an object of an SDK.

    Args:
        kind: shape of the part.
        part: object with the fields of the shape.
        name: name of such parts, for the error.

    Raises:
        GarbledError: a field is invalid.
    """
    try:
        return kind.model_validate(part, from_attributes=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or name
        raise GarbledError(f"a broken stream, {place}: {first['msg']}") from None


def watched(events: Iterable[E]) -> Iterator[E]:
    """Yield the events of a stream.

    Raises:
        BrokenOffError: the stream failed after the first event, by any error except silence.
        GarbledError: the first event is invalid.
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
