"""Read chat completions of any server, and write messages as any server accepts them.

Servers differ in more than the API says: content is a text or a list of parts, thinking comes in one of several
fields, and tool calls lack ids, names or arguments. A reply that holds an answer is read; any other is an error.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field, field_validator, model_validator

from sia_core.domain.endings import BROKEN, LENGTH, REFUSED, finish_of
from sia_core.domain.json_data import flaw
from sia_core.domain.rollout import ToolCall
from sia_core.policy.calls import arguments_text, sent_back, with_ids
from sia_core.policy.protocol import Completion, Message, Request
from sia_core.policy.scripted import render
from sia_core.policy.server import Answer

THINKING: Final = ("reasoning_content", "reasoning", "thinking", "reasoning_details")
"""Fields in which servers return thinking, and in which they take it back."""
_OURS: Final = ("blocks", "thinking")
"""Fields of our messages that are no part of the API."""
MOST_TOKENS: Final = 2**53
Count = Annotated[int, BeforeValidator(lambda value: 0 if value is None else value), Field(ge=0, le=MOST_TOKENS)]


def text_of(content: Any, kind: str = "text") -> Any:
    """Return the text of a content: the texts of its parts, if it is a list. Other values are returned unchanged."""
    if isinstance(content, Mapping):
        content = [content]
    if not isinstance(content, list):
        return content
    parts = (
        part if isinstance(part, str) else part.get(kind)
        for part in content
        if (isinstance(part, str) and kind == "text")
        or (isinstance(part, Mapping) and part.get("type", kind) in (kind, f"output_{kind}"))
    )
    return "".join(part for part in parts if isinstance(part, str))


class _Function(Answer):
    name: str = ""
    arguments: str = ""

    @field_validator("name", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        return "" if value is None else value

    @field_validator("arguments", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> str:
        return arguments_text(value)


class _Call(Answer):
    id: str = ""
    function: _Function = _Function()

    @model_validator(mode="before")
    @classmethod
    def _coerce(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        number = data.get("id")
        named = {"id": number if isinstance(number, str) else "" if number is None else str(number)}
        function = data.get("function")
        return {**named, "function": data if function is None else function}


class _Message(Answer):
    content: str | None = None
    refusal: str | None = None
    thinking: dict[str, Any] = Field(default={})
    tool_calls: list[_Call] = Field(default=[])

    @model_validator(mode="before")
    @classmethod
    def _coerce(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        content, calls = data.get("content"), data.get("tool_calls") or []
        if not calls and isinstance(data.get("function_call"), dict):
            calls = [{"function": data["function_call"]}]
        return {
            "content": text_of(content),
            "refusal": data.get("refusal") or (text_of(content, "refusal") if isinstance(content, list) else None),
            "thinking": {name: data[name] for name in THINKING if data.get(name) and not flaw(data[name])},
            "tool_calls": [call for call in calls if call is not None] if isinstance(calls, list) else calls,
        }


class _Choice(Answer):
    message: _Message
    finish_reason: str | None = None

    @field_validator("finish_reason", mode="after")
    @classmethod
    def _whole(cls, reason: str | None) -> str | None:
        if reason is not None and reason.lower() in BROKEN:
            raise ValueError(f"the server broke the reply off ({reason})")
        return reason


class _Details(Answer):
    cached_tokens: Count = 0
    cache_write_tokens: Count = 0


class _Usage(Answer):
    prompt_tokens: Count = 0
    completion_tokens: Count = 0
    prompt_tokens_details: _Details | None = None


class Chat(Answer):
    """A chat completion."""

    choices: list[_Choice] = Field(min_length=1)
    usage: _Usage | None = None


def sendable(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Return messages as servers accept them: calls well formed, and a text unless the message calls tools.

    Thinking is sent back under the server's own names, for the turns since the last message of the user: servers that
    keep it need it between the calls of one turn, and DeepSeek's does not take it for earlier turns.
    """
    last = max((at for at, message in enumerate(messages) if message["role"] == "user"), default=-1)
    return [_message(message, with_thinking=at > last) for at, message in enumerate(messages)]


def read_completion(request: Request, chat: Chat) -> Completion:
    """Return the first choice of a chat completion."""
    choice, usage = chat.choices[0], chat.usage or _Usage()
    message = choice.message
    calls = with_ids(
        (ToolCall(call.id, call.function.name, call.function.arguments) for call in message.tool_calls), request.key
    )
    details = usage.prompt_tokens_details or _Details()
    return Completion(
        message.content or message.refusal or "",
        render(request.messages),
        finish=REFUSED if message.refusal else _finish(request, choice, usage),
        tool_calls=calls,
        prompt_tokens=usage.prompt_tokens,
        output_tokens=usage.completion_tokens,
        cached_tokens=details.cached_tokens,
        cache_write_tokens=details.cache_write_tokens,
        thinking=message.thinking,
    )


def _finish(request: Request, choice: _Choice, usage: _Usage) -> str:
    reason = choice.finish_reason
    if reason is None and usage.completion_tokens >= request.sampling.max_tokens:
        return LENGTH
    return finish_of(reason or "stop", calls=bool(choice.message.tool_calls))


def _message(message: Message, *, with_thinking: bool) -> dict[str, Any]:
    made = {name: value for name, value in message.items() if name not in _OURS}
    if made.get("tool_calls"):
        made["tool_calls"] = sent_back(made["tool_calls"])
    if with_thinking:
        made |= message.get("thinking") or {}
    if made.get("content") is None and not made.get("tool_calls"):
        made["content"] = ""
    return made
