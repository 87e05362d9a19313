"""The two wire formats that a harness may speak: OpenAI chat completions and Anthropic messages.

Both are read into one `Ask` and written from `Completion`s. A parameter that would change the sampling and
is not supported is refused. Parameters that the gateway sets (model, temperature, seed, ...) are ignored,
because every client library sends them.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from sia_core.domain.endings import LENGTH, REFUSED
from sia_core.domain.invalid import in_words
from sia_core.domain.rollout import ToolCall
from sia_core.engine.budget import RefusedError
from sia_core.engine.jsonl import BadJsonError, parse
from sia_core.engine.wire_shapes import AnthropicMessage, Chat, Choose, Messages, Part
from sia_core.policy.protocol import Completion, Message, Tool

MODEL = "policy"
"""Only model name that a harness sees."""
_STOP_REASONS = {LENGTH: "max_tokens", "tool_calls": "tool_use", REFUSED: "refusal"}


_T = TypeVar("_T", bound=BaseModel)


@dataclass(frozen=True)
class Ask:
    """A checked request of a harness, in either wire format."""

    messages: tuple[Message, ...]
    n: int = 1
    max_tokens: int | None = None
    options: tuple[str, ...] | None = None
    tools: tuple[Tool, ...] = ()
    stream: bool = False
    usage: bool = False
    """True if a stream ends with the tokens used."""
    stop: tuple[str, ...] = ()
    """Texts at which a reply ends, without them."""
    must_limit: bool = False
    """True if every request of this format has a limit of tokens."""


def read_chat(body: Any) -> Ask:
    """Read an OpenAI chat completion request.

    Raises:
        RefusedError: a malformed request, or one that the gateway does not support.
    """
    chat = _checked(Chat, body)
    try:
        tools = chat.offered
    except ValueError as error:
        raise RefusedError("request", str(error)) from None
    return Ask(
        tuple(message.plain() for message in chat.messages),
        chat.n or 1,
        chat.max_completion_tokens or chat.max_tokens,
        tools=tools,
        stream=bool(chat.stream),
        usage=chat.stream_options is not None and bool(chat.stream_options.include_usage),
        stop=_stops(chat.stop),
    )


def read_choose(body: Any) -> Ask:
    """Read a choice: {"messages": [...], "options": [text, ...]}. Raises RefusedError."""
    choose = _checked(Choose, body)
    if not all(choose.options) or len(set(choose.options)) < len(choose.options):
        raise RefusedError("request", "options: different, non-empty texts")
    return Ask(tuple(message.plain() for message in choose.messages), options=tuple(choose.options))


def read_messages(body: Any) -> Ask:
    """Read an Anthropic messages request. Raises RefusedError."""
    asked = _checked(Messages, body)
    messages: list[Message] = []
    if asked.system:
        messages.append({"role": "system", "content": _text(asked.system)})
    for message in asked.messages:
        messages += _openai_messages(message)
    if not messages:
        raise RefusedError("request", "messages: no message holds a text, a tool call or a tool's result")
    return Ask(
        tuple(messages),
        max_tokens=asked.max_tokens,
        tools=asked.offered,
        stream=bool(asked.stream),
        stop=_stops(asked.stop_sequences),
        must_limit=True,
    )


def write_chat(key: str, completions: Sequence[Completion]) -> dict[str, Any]:
    """Write an OpenAI chat completion."""
    prompt = completions[0].prompt_tokens
    output = sum(completion.output_tokens for completion in completions)
    return {
        "id": f"chatcmpl-{key[:24]}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": MODEL,
        "choices": [
            {
                "index": index,
                "finish_reason": _finish(completion),
                "message": {
                    "role": "assistant",
                    "content": completion.text or (None if completion.tool_calls else ""),
                    **(
                        {"tool_calls": [_call(call) for call in completion.tool_calls]} if completion.tool_calls else {}
                    ),
                },
            }
            for index, completion in enumerate(completions)
        ],
        "usage": {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output},
    }


def write_messages(key: str, completion: Completion) -> dict[str, Any]:
    """Write an Anthropic message."""
    content: list[dict[str, Any]] = [{"type": "text", "text": completion.text}] if completion.text else []
    content += [
        {"type": "tool_use", "id": call.id, "name": call.name, "input": _arguments(call)}
        for call in completion.tool_calls
    ]
    reason = _STOP_REASONS.get(_finish(completion), "end_turn")
    return {
        "id": f"msg_{key[:24]}",
        "type": "message",
        "role": "assistant",
        "model": MODEL,
        "content": content,
        "stop_reason": reason,
        "stop_sequence": None,
        "usage": {"input_tokens": completion.prompt_tokens, "output_tokens": completion.output_tokens},
    }


def chat_events(answer: Mapping[str, Any], *, usage: bool = False) -> str:
    """Write a chat completion as the server-sent events of a stream.

    Args:
        usage: end with a chunk without choices that holds the tokens used; clients that did not ask for it fail on it.
    """
    head = {**answer, "object": "chat.completion.chunk"}
    used = head.pop("usage")
    events = []
    for choice in answer["choices"]:
        delta = {**choice["message"]}
        if "tool_calls" in delta:
            delta["tool_calls"] = [{"index": at, **call} for at, call in enumerate(delta["tool_calls"])]
        events.append({"index": choice["index"], "delta": delta, "finish_reason": None})
        events.append({"index": choice["index"], "delta": {}, "finish_reason": choice["finish_reason"]})
    chunks = [{**head, "choices": [event], **({"usage": None} if usage else {})} for event in events]
    chunks += [{**head, "choices": [], "usage": used}] if usage else []
    return "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"


def message_events(answer: Mapping[str, Any]) -> str:
    """Write an Anthropic message as the server-sent events of a stream."""
    start = {**answer, "content": [], "stop_reason": None}
    events: list[dict[str, Any]] = [{"type": "message_start", "message": start}]
    for at, block in enumerate(answer["content"]):
        if block["type"] == "text":
            empty: dict[str, Any] = {"type": "text", "text": ""}
            delta = {"type": "text_delta", "text": block["text"]}
        else:
            empty = {**block, "input": {}}
            delta = {"type": "input_json_delta", "partial_json": json.dumps(block["input"])}
        events.append({"type": "content_block_start", "index": at, "content_block": empty})
        events.append({"type": "content_block_delta", "index": at, "delta": delta})
        events.append({"type": "content_block_stop", "index": at})
    stop = {"stop_reason": answer["stop_reason"], "stop_sequence": None}
    tokens = {"output_tokens": answer["usage"]["output_tokens"]}
    events += [{"type": "message_delta", "delta": stop, "usage": tokens}, {"type": "message_stop"}]
    return "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events)


def stopped(completion: Completion, stop: Sequence[str]) -> Completion:
    """Return the reply up to the first of these texts, as if the policy had ended there."""
    places = [place for one in stop if (place := completion.text.find(one)) >= 0]
    return replace(completion, text=completion.text[: min(places)], finish="stop") if places else completion


def refuse_stop(ask: Ask) -> Ask:
    """Refuse texts at which a reply would end: the record would hold more than the harness saw."""
    if ask.stop:
        raise RefusedError("request", "stop is not offered: cut the reply yourself")
    return ask


def _stops(given: str | Sequence[str] | None) -> tuple[str, ...]:
    return tuple(one for one in ([given] if isinstance(given, str) else given or ()) if one)


def _checked(shape: type[_T], body: Any) -> _T:
    try:
        return shape.model_validate(body)
    except ValidationError as error:
        raise RefusedError("request", in_words(error, shape)) from None
    except RecursionError:
        raise RefusedError("request", "the request is nested too deeply") from None


def _openai_messages(message: AnthropicMessage) -> list[Message]:
    if isinstance(message.content, str):
        return [{"role": message.role, "content": message.content}]
    found: list[Message] = [
        {"role": "tool", "tool_call_id": block.tool_use_id, "content": _text(block.content)}
        for block in message.content
        if block.type == "tool_result"
    ]
    text = "".join(block.text for block in message.content if block.type == "text")
    calls = [
        _call(ToolCall(block.id, block.name, json.dumps(block.input)))
        for block in message.content
        if block.type == "tool_use"
    ]
    if text or calls:
        found.append({**_assistant(text or None, calls), "role": message.role})
    return found


def _assistant(content: str | None, calls: list[dict[str, Any]]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": content}
    return {**message, "tool_calls": calls} if calls else message


def _text(content: str | list[Part] | None) -> str:
    return content if isinstance(content, str) else "".join(part.text for part in content or ())


def _call(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _arguments(call: ToolCall) -> Any:
    # Anthropic's format allows only JSON arguments; the harness still sees the model's text.
    try:
        return parse(call.arguments.encode(errors="replace"), limit=len(call.arguments) * 4)
    except BadJsonError:
        return {"invalid_json": call.arguments}


def _finish(completion: Completion) -> str:
    # A reply that was cut or refused says so, even if it holds calls: they are not whole.
    stopped = completion.finish in (LENGTH, REFUSED)
    return "tool_calls" if completion.tool_calls and not stopped else completion.finish
