"""Assemble the events of a streamed message into the body of a reply without a stream.

The SDK's own accumulator reads the arguments of a call that was cut as if they were whole, and ends the stream with an
error where they are not JSON. Here the arguments stay the text that the model wrote.
"""

import json
from collections.abc import Iterable
from typing import Any

from sia_core.policy.faults import BrokenOffError
from sia_core.policy.server import Answer
from sia_core.policy.streaming import Heard, read_part

_COUNTS = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
_PIECES = ("text", "thinking", "signature")
_ARGUMENTS = "partial_json"


class _Usage(Answer):
    input_tokens: Any = None
    output_tokens: Any = None
    cache_read_input_tokens: Any = None
    cache_creation_input_tokens: Any = None


class _Block(Answer):
    type: str = "text"
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None
    id: str | None = None
    name: str | None = None
    input: Any = None


class _Delta(Answer):
    type: str | None = None
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    partial_json: str | None = None
    stop_reason: str | None = None


class _Message(Answer):
    content: list[_Block] | None = None
    stop_reason: str | None = None
    usage: _Usage | None = None


class _Event(Answer):
    type: str
    index: int | None = None
    message: _Message | None = None
    content_block: _Block | None = None
    delta: _Delta | None = None
    usage: _Usage | None = None


class Message:
    """Assembles a message from events."""

    def __init__(self, heard: Heard) -> None:
        self._heard = heard
        self._blocks: dict[int, dict[str, Any]] = {}
        self._stop: str | None = None
        self._usage: dict[str, Any] = {}

    def add(self, event: _Event) -> None:
        """Add one event."""
        if event.message is not None:
            self._blocks |= {at: block.model_dump() for at, block in enumerate(event.message.content or ())}
            self._stop = event.message.stop_reason
            self._count(event.message.usage)
        self._count(event.usage)
        at = max(self._blocks, default=-1) if event.index is None else event.index
        if event.content_block is not None:
            self._blocks[at if event.index is not None else at + 1] = event.content_block.model_dump()
        if event.delta is not None:
            self._stop = event.delta.stop_reason or self._stop
            if event.type == "content_block_delta":
                self._grow(self._blocks.setdefault(at, _Block().model_dump()), event.delta)

    def body(self) -> bytes:
        """Return the body of the same reply without a stream.

        Raises:
            BrokenOffError: the stream ended before the message did.
        """
        if self._stop is None:
            raise BrokenOffError(EOFError("it ended before the reply did"))
        content = [self._blocks[at] for at in sorted(self._blocks)]
        for block in content:
            if _ARGUMENTS in block:
                block["input"] = block.pop(_ARGUMENTS)
        return json.dumps({"content": content, "stop_reason": self._stop, "usage": self._usage}).encode()

    def _count(self, usage: _Usage | None) -> None:
        found = {name: getattr(usage, name, None) for name in _COUNTS}
        self._usage |= {name: count for name, count in found.items() if count is not None}

    def _grow(self, block: dict[str, Any], delta: _Delta) -> None:
        for name in (*_PIECES, _ARGUMENTS):
            more = getattr(delta, name)
            if more:
                block[name] = (block.get(name) or "") + more
        self._heard.add(delta.text, delta.thinking, delta.partial_json)


def gather(events: Iterable[Any], heard: Heard) -> bytes:
    """Return the body of the same reply without a stream.

    Args:
        events: raw events of the SDK.

    Raises:
        GarbledError: an invalid event.
        BrokenOffError: the stream ended early.
    """
    message = Message(heard)
    for event in events:
        message.add(read_part(_Event, event, "event"))
    return message.body()
