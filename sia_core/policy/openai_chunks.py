"""Assemble the chunks of a streamed chat completion into the body of a reply without a stream.

Servers differ in three ways. The id and the name of a call come whole or in pieces, once or with each chunk. Calls are
numbered, not numbered, or all numbered 0. The last chunk may count the tokens and hold no choice.
"""

import json
from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError

from sia_core.policy.faults import BrokenOffError, GarbledError
from sia_core.policy.server import Answer
from sia_core.policy.streaming import Heard


class _Function(Answer):
    name: str | None = None
    arguments: str | None = None


class _Call(Answer):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Delta(Answer):
    content: str | None = None
    refusal: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[_Call] | None = None


class _Choice(Answer):
    index: int | None = 0
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Chunk(Answer):
    choices: list[_Choice] | None = None
    usage: Any = None


class Calls:
    """Assembles tool calls from parts."""

    def __init__(self) -> None:
        self._calls: list[dict[str, str]] = []
        self._at: dict[int, dict[str, str]] = {}
        """Current call of each number."""

    def add(self, part: _Call) -> None:
        """Add one part."""
        call = self._meant(part)
        function = part.function or _Function()
        call["id"] = _longer(call["id"], part.id)
        call["name"] = _longer(call["name"], function.name)
        call["arguments"] += function.arguments or ""

    def whole(self) -> list[dict[str, Any]]:
        """Return the calls in the form in which a message holds them."""
        return [
            {"id": call["id"], "type": "function", "function": {"name": call["name"], "arguments": call["arguments"]}}
            for call in self._calls
        ]

    def _meant(self, part: _Call) -> dict[str, str]:
        last = self._calls[-1] if self._calls else None
        found = last if part.index is None else self._at.get(part.index)
        if found is None or (part.id not in (None, "", found["id"]) and _is_json(found["arguments"])):
            # Calls may share a number: another id after complete arguments begins a new call.
            found = {"id": "", "name": "", "arguments": ""}
            self._calls.append(found)
        if part.index is not None:
            self._at[part.index] = found
        return found


class Reply:
    """Assembles a reply from chunks."""

    def __init__(self, heard: Heard) -> None:
        self._heard = heard
        self._text, self._refusal, self._calls = list[str](), list[str](), Calls()
        self._finish: str | None = None
        self._usage: Any = None
        self._ended = False

    def add(self, chunk: _Chunk) -> None:
        """Add one chunk."""
        usage = chunk.usage.to_dict() if hasattr(chunk.usage, "to_dict") else chunk.usage
        self._usage = usage or self._usage
        self._ended = self._ended or (usage is not None and not chunk.choices)
        for choice in chunk.choices or ():
            if not choice.index:
                self._finish = choice.finish_reason or self._finish
                self._grow(choice.delta or _Delta())

    def body(self) -> bytes:
        """Return the body of the same reply without a stream.

        Raises:
            BrokenOffError: the stream ended early, without a finish reason and without a final token count.
        """
        if self._finish is None and not self._ended:
            raise BrokenOffError(EOFError("it ended before the reply did"))
        message = {
            "role": "assistant",
            "content": "".join(self._text) or None,
            "refusal": "".join(self._refusal) or None,
            "tool_calls": self._calls.whole() or None,
        }
        choice = {"message": message, "finish_reason": self._finish}
        return json.dumps({"choices": [choice], "usage": self._usage}).encode()

    def _grow(self, delta: _Delta) -> None:
        self._text.append(delta.content or "")
        self._refusal.append(delta.refusal or "")
        parts = delta.tool_calls or []
        for part in parts:
            self._calls.add(part)
        arguments = [part.function.arguments for part in parts if part.function]
        self._heard.add(delta.content, delta.refusal, delta.reasoning, delta.reasoning_content, *arguments)


def gather(chunks: Iterable[Any], heard: Heard) -> bytes:
    """Return the body of the same reply without a stream.

    Args:
        chunks: `ChatCompletionChunk`s of the SDK.

    Raises:
        GarbledError: an invalid chunk.
        BrokenOffError: the stream ended early.
    """
    reply = Reply(heard)
    for chunk in chunks:
        reply.add(_read(chunk))
    return reply.body()


def _read(chunk: Any) -> _Chunk:
    try:
        return _Chunk.model_validate(chunk, from_attributes=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "chunk"
        raise GarbledError(f"a broken stream, {place}: {first['msg']}") from None


def _longer(text: str, part: str | None) -> str:
    """Append a piece to a text, unless the server sent the whole text again."""
    return text if not part or part == text else text + part


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
