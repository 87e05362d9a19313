"""The two wire formats that a harness may speak: OpenAI chat completions and Anthropic messages.

Both are read into one `Ask` and written from `Completion`s. A parameter that would change the sampling and
is not supported is refused. Parameters that the gateway sets (model, temperature, seed, ...) are ignored,
because every client library sends them.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sia_core.domain.rollout import ToolCall
from sia_core.domain.task_config import describe_invalid
from sia_core.engine.budget import RefusedError
from sia_core.engine.jsonl import BadJsonError, parse
from sia_core.policy.endings import LENGTH, REFUSED
from sia_core.policy.protocol import Completion, Message, Tool

MODEL = "policy"
"""Only model name that a harness sees."""
MAX_OPTIONS = 1024
MAX_SAMPLES = 128
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


class _Shape(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Function(_Shape):
    name: str = Field(max_length=128)  # Empty if the model named no tool.
    arguments: str = ""


class _Call(_Shape):
    id: str
    type: str = "function"
    function: _Function


class _Part(_Shape):
    type: str = Field(pattern="^text$")
    text: str


class _Message(_Shape):
    role: str = Field(pattern="^(system|developer|user|assistant|tool)$")
    content: str | list[_Part] | None = None
    tool_calls: list[_Call] | None = None
    tool_call_id: str | None = None
    name: str | None = None
    refusal: None = None

    def plain(self) -> Message:
        content = self.content
        if isinstance(content, list):
            content = "".join(part.text for part in content)
        message: dict[str, Any] = {"role": "system" if self.role == "developer" else self.role, "content": content}
        if self.tool_calls:
            message["tool_calls"] = [call.model_dump() for call in self.tool_calls]
        if self.role == "tool":
            message["tool_call_id"] = self.tool_call_id
        return message


class _ToolFunction(_Shape):
    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    description: str = ""
    parameters: dict[str, Any] = {}
    strict: bool | None = None


class _Tool(_Shape):
    type: str = Field(pattern="^function$")
    function: _ToolFunction

    def plain(self) -> Tool:
        return self.model_dump(exclude_none=True)


class _Chat(_Shape):
    messages: list[_Message] = Field(min_length=1)
    tools: list[_Tool] = []
    tool_choice: str | None = Field(default=None, pattern="^(auto|none)$")
    n: int = Field(default=1, ge=1, le=MAX_SAMPLES)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    stream: bool = False
    stream_options: Any = None
    # Set by the gateway; values from a client have no effect.
    model: Any = None
    temperature: Any = None
    top_p: Any = None
    seed: Any = None
    user: Any = None
    metadata: Any = None
    store: Any = None
    parallel_tool_calls: Any = None


class _Choose(_Shape):
    messages: list[_Message] = Field(min_length=1)
    options: list[str] = Field(min_length=1, max_length=MAX_OPTIONS)


class _Block(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)

    type: str = Field(pattern="^(text|tool_use|tool_result)$")
    text: str = ""
    id: str = ""
    name: str = ""
    input: Any = None
    tool_use_id: str = ""
    content: str | list[_Part] | None = None


class _AnthropicMessage(_Shape):
    role: str = Field(pattern="^(user|assistant)$")
    content: str | list[_Block]


class _AnthropicTool(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)

    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    description: str = ""
    input_schema: dict[str, Any]


class _Messages(_Shape):
    messages: list[_AnthropicMessage] = Field(min_length=1)
    system: str | list[_Part] | None = None
    tools: list[_AnthropicTool] = []
    max_tokens: int = Field(ge=1)
    stream: bool = False
    model: Any = None
    temperature: Any = None
    top_p: Any = None
    top_k: Any = None
    metadata: Any = None


def read_chat(body: Any) -> Ask:
    """Read an OpenAI chat completion request.

    Raises:
        RefusedError: a malformed request, or one that the gateway does not support.
    """
    chat = _checked(_Chat, body)
    return Ask(
        tuple(message.plain() for message in chat.messages),
        chat.n,
        chat.max_completion_tokens or chat.max_tokens,
        tools=() if chat.tool_choice == "none" else tuple(tool.plain() for tool in chat.tools),
        stream=chat.stream,
    )


def read_choose(body: Any) -> Ask:
    """Read a choice: {"messages": [...], "options": [text, ...]}. Raises RefusedError."""
    choose = _checked(_Choose, body)
    if not all(choose.options) or len(set(choose.options)) < len(choose.options):
        raise RefusedError("request", "options: different, non-empty texts")
    return Ask(tuple(message.plain() for message in choose.messages), options=tuple(choose.options))


def read_messages(body: Any) -> Ask:
    """Read an Anthropic messages request. Raises RefusedError."""
    asked = _checked(_Messages, body)
    messages: list[Message] = []
    if asked.system:
        messages.append({"role": "system", "content": _text(asked.system)})
    for message in asked.messages:
        messages += _openai_messages(message)
    tools = tuple(
        {
            "type": "function",
            "function": {"name": tool.name, "description": tool.description, "parameters": tool.input_schema},
        }
        for tool in asked.tools
    )
    return Ask(tuple(messages), max_tokens=asked.max_tokens, tools=tools, stream=asked.stream)


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


def chat_events(answer: Mapping[str, Any]) -> str:
    """Write a chat completion as the server-sent events of a stream."""
    head = {**answer, "object": "chat.completion.chunk"}
    usage = head.pop("usage")
    events = []
    for choice in answer["choices"]:
        delta = {**choice["message"]}
        if "tool_calls" in delta:
            delta["tool_calls"] = [{"index": at, **call} for at, call in enumerate(delta["tool_calls"])]
        events.append({"index": choice["index"], "delta": delta, "finish_reason": None})
        events.append({"index": choice["index"], "delta": {}, "finish_reason": choice["finish_reason"]})
    chunks = [{**head, "choices": [event]} for event in events] + [{**head, "choices": [], "usage": usage}]
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


def _checked(shape: type[_T], body: Any) -> _T:
    try:
        return shape.model_validate(body)
    except ValidationError as error:
        raise RefusedError("request", describe_invalid(error)) from error


def _openai_messages(message: _AnthropicMessage) -> list[Message]:
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


def _text(content: str | list[_Part] | None) -> str:
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
