"""Assemble the chunks of a streamed chat completion into the body of a reply without a stream.

Servers differ in four ways. The id and the name of a call come whole or in pieces, once or with each chunk. Calls are
numbered, not numbered, or all numbered 0. The last chunk may count the tokens and hold no choice. Content comes as text
or as a list of parts, and thinking in one of several fields.
"""

import json
from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import BeforeValidator

from sia_core.policy.calls import arguments_text
from sia_core.policy.faults import BrokenOffError
from sia_core.policy.openai_shapes import THINKING, text_of
from sia_core.policy.server import Answer
from sia_core.policy.streaming import Heard, read_part

_Text = Annotated[str | None, BeforeValidator(text_of)]


class _Function(Answer):
    name: str | None = None
    arguments: Annotated[str | None, BeforeValidator(lambda one: one if one is None else arguments_text(one))] = None


class _Call(Answer):
    index: int | None = None
    id: Annotated[str | None, BeforeValidator(lambda one: str(one) if isinstance(one, int) else one)] = None
    function: _Function | None = None


class _Delta(Answer):
    content: _Text = None
    refusal: str | None = None
    reasoning: Any = None
    reasoning_content: Any = None
    thinking: Any = None
    reasoning_details: Any = None
    tool_calls: list[_Call | None] | None = None


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


class Thinking:
    """Assembles thinking, which servers send in texts, or in lists of details that are sent in pieces."""

    def __init__(self) -> None:
        self.whole: dict[str, Any] = {}

    def add(self, name: str, part: Any) -> None:
        """Add one part of a field."""
        found = self.whole.get(name)
        if isinstance(part, str) and part:
            self.whole[name] = found + part if isinstance(found, str) else part
        elif isinstance(part, list) and part:
            details = self.whole.setdefault(name, [])
            for detail in filter(lambda one: isinstance(one, dict), part) if isinstance(details, list) else ():
                _extend(details, detail)


class Reply:
    """Assembles a reply from chunks."""

    def __init__(self, heard: Heard) -> None:
        self._heard = heard
        self._text, self._refusal, self._calls = list[str](), list[str](), Calls()
        self._thinking = Thinking()
        self._finish: str | None = None
        self._usage: Any = None
        self._ended = False

    def add(self, chunk: _Chunk) -> None:
        """Add one chunk."""
        usage = _as_json(chunk.usage)
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
            **self._thinking.whole,
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
        thought = {name: getattr(delta, name) for name in THINKING}
        for name, more in thought.items():
            self._thinking.add(name, more)
        parts = [part for part in delta.tool_calls or [] if part is not None]
        for part in parts:
            self._calls.add(part)
        arguments = [part.function.arguments for part in parts if part.function]
        texts = (text for text in thought.values() if isinstance(text, str))
        self._heard.add(delta.content, delta.refusal, *texts, *arguments)


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
        reply.add(read_part(_Chunk, chunk, "chunk"))
    return reply.body()


def _as_json(value: Any) -> Any:
    """Return a value of the SDK, which makes objects of what it knows, as JSON data."""
    if hasattr(value, "to_dict"):
        return value.to_dict(warnings=False)
    return [_as_json(one) for one in value] if isinstance(value, list) else value


def _extend(details: list[dict[str, Any]], detail: dict[str, Any]) -> None:
    """Add a detail; a piece of the last detail (one type, one index) continues its texts."""
    last = details[-1] if details else {}
    if not last or any(last.get(name) != detail.get(name) for name in ("type", "index")):
        details.append(dict(detail))
        return
    for name, value in detail.items():
        text = name in ("text", "summary", "data") and isinstance(value, str) and isinstance(last.get(name), str)
        last[name] = last[name] + value if text else value


def _longer(text: str, part: str | None) -> str:
    """Append a piece to a text, unless the server sent the whole text again."""
    return text if not part or part == text else text + part


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
