"""The requests of both wire formats as clients send them, checked and brought into one form.

Clients send back whole what they received: messages with fields that are null, with reasoning, with texts in parts.
Such fields have no effect and are dropped. A field that asks for something else than a plain reply is refused by name.
"""

import json
from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from sia_core.policy.protocol import Message, Tool

MAX_OPTIONS = 1024
MAX_OPTION_BYTES = 1 << 16
"""Bytes of all options of a choice: a model reads each token of them, which takes a CPU up to a minute."""
MAX_SAMPLES = 128
_MOST_TOKENS = 1 << 31
_TEXTS = ("text", "input_text", "output_text", "refusal")
"""Kinds of parts that hold a text."""
_NAME = r"^[a-zA-Z0-9_-]{1,64}$"
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "audio": (None,),
    "frequency_penalty": (None, 0),
    "function_call": (None, "auto", "none"),
    "functions": (None, []),
    "logit_bias": (None, {}),
    "logprobs": (None, False),
    "modalities": (None, ["text"]),
    "prediction": (None,),
    "presence_penalty": (None, 0),
    "reasoning_effort": (None,),
    "response_format": (None, {"type": "text"}),
    "top_logprobs": (None, 0),
    "verbosity": (None,),
    "web_search_options": (None,),
}
"""Parameters of a chat completion with the values that ask for nothing; other values are refused."""
_NEUTRAL_MESSAGES: Mapping[str, tuple[Any, ...]] = {
    "container": (None,),
    "context_management": (None,),
    "mcp_servers": (None, []),
    "output_config": (None, {}),
    "output_format": (None,),
    "thinking": (None, {"type": "disabled"}),
}
"""Parameters of an Anthropic message with the values that ask for nothing."""
_MESSAGE_FIELDS: Mapping[str, tuple[Any, ...]] = {"audio": (None,), "function_call": (None,)}


class Shape(BaseModel):
    """Part of a request whose fields are all known."""

    model_config = ConfigDict(extra="forbid", strict=True)


class _Loose(BaseModel):
    """Part of a request that clients decorate, for example with marks for a cache."""

    model_config = ConfigDict(extra="ignore", strict=True)


def _refuse(body: Any, neutral: Mapping[str, tuple[Any, ...]]) -> Any:
    """Drop the fields that ask for nothing.

    Raises:
        ValueError: a field asks for something that is not offered.
    """
    if not isinstance(body, dict):
        return body
    for name, values in neutral.items():
        if name in body and not any(_same(body[name], value) for value in values):
            raise ValueError(f"{name}={_shown(body[name])} is not offered")
    return {name: value for name, value in body.items() if name not in neutral}


def _same(given: Any, value: Any) -> bool:
    return isinstance(given, bool) == isinstance(value, bool) and given == value


def _shown(value: Any) -> str:
    return repr(value)[:60]


class _Function(_Loose):
    name: str = Field(max_length=128)  # Empty if the model named no tool.
    arguments: str | dict[str, Any] | None = ""


class _Call(_Loose):
    id: str | None = None
    function: _Function

    def plain(self, at: int) -> dict[str, Any]:
        """The call as OpenAI writes it, with an id."""
        given = self.function.arguments
        arguments = json.dumps(given) if isinstance(given, dict) else given or ""
        function = {"name": self.function.name, "arguments": arguments}
        return {"id": self.id if self.id is not None else f"call_{at}", "type": "function", "function": function}


class Part(_Loose):
    """A part of a content; only texts are offered."""

    type: str = "text"
    text: str = ""

    @model_validator(mode="before")
    @classmethod
    def _only_text(cls, part: Any) -> Any:
        kind = part.get("type", "text") if isinstance(part, dict) else "text"
        if kind not in _TEXTS:
            raise ValueError(f"a part of type {_shown(kind)} is not offered: send texts")
        return {"type": "text", "text": part.get("refusal")} if kind == "refusal" else part


class ChatMessage(_Loose):
    """A message of chat completions; reasoning and annotations that come back with it are dropped."""

    role: str = Field(pattern="^(system|developer|user|assistant|tool)$")
    content: str | list[Part] | None = None
    refusal: str | None = None
    tool_calls: list[_Call] | None = None
    tool_call_id: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _neutral(cls, message: Any) -> Any:
        return _refuse(message, _MESSAGE_FIELDS)

    def plain(self) -> Message:
        """The message without the fields that have no effect."""
        content = self.content
        if isinstance(content, list):
            content = "".join(part.text for part in content)
        if content is None and self.refusal:
            content = self.refusal
        message: dict[str, Any] = {"role": "system" if self.role == "developer" else self.role, "content": content}
        if self.tool_calls:
            message["tool_calls"] = [call.plain(at) for at, call in enumerate(self.tool_calls)]
        if self.role == "tool":
            message["tool_call_id"] = self.tool_call_id
        return message


class _ToolFunction(_Loose):
    name: str = Field(pattern=_NAME)
    description: str | None = ""
    parameters: dict[str, Any] | None = Field(default={})
    strict: bool | None = None


class _Tool(_Loose):
    type: str = Field(default="function", pattern="^function$")
    function: _ToolFunction

    def plain(self) -> Tool:
        """The tool without the fields that are null."""
        made = self.model_dump(exclude_none=True)
        function = {"description": "", "parameters": {}, **made["function"]}
        order = ("name", "description", "parameters", "strict")
        return {**made, "function": {name: function[name] for name in order if name in function}}


class _StreamOptions(_Loose):
    include_usage: bool | None = None


class Chat(Shape):
    """A request for a chat completion."""

    messages: list[ChatMessage] = Field(min_length=1)
    tools: list[_Tool] | None = None
    tool_choice: str | dict[str, Any] | None = None
    n: int | None = Field(default=None, ge=1, le=MAX_SAMPLES)
    max_tokens: int | None = Field(default=None, ge=1, le=_MOST_TOKENS)
    max_completion_tokens: int | None = Field(default=None, ge=1, le=_MOST_TOKENS)
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    # Set by the gateway, or about the client's account; values from a client have no effect.
    model: Any = None
    temperature: Any = None
    top_p: Any = None
    seed: Any = None
    user: Any = None
    metadata: Any = None
    store: Any = None
    parallel_tool_calls: Any = None
    prompt_cache_key: Any = None
    prompt_cache_retention: Any = None
    safety_identifier: Any = None
    service_tier: Any = None

    @model_validator(mode="before")
    @classmethod
    def _neutral(cls, body: Any) -> Any:
        return _refuse(body, _NEUTRAL)

    @property
    def offered(self) -> tuple[Tool, ...]:
        """The tools that the policy may call.

        Raises:
            ValueError: the policy would have to call a tool.
        """
        tools = tuple(tool.plain() for tool in self.tools or ())
        choice, names = _tool_choice(self.tool_choice)
        if choice == "none":
            return ()
        return tools if names is None else tuple(tool for tool in tools if tool["function"]["name"] in names)


def _tool_choice(given: str | Mapping[str, Any] | None) -> tuple[str, set[str] | None]:
    """Return `auto` or `none`, and the names of the only tools on offer.

    Raises:
        ValueError: the policy would have to call a tool.
    """
    choice = given if isinstance(given, str) or given is None else given.get("type")
    if choice in (None, "auto", "none"):
        return str(choice or "auto"), None
    allowed = given.get("allowed_tools") if isinstance(given, Mapping) and choice == "allowed_tools" else None
    if isinstance(allowed, dict) and allowed.get("mode") == "auto" and isinstance(allowed.get("tools"), list):
        functions = [tool.get("function") for tool in allowed["tools"] if isinstance(tool, dict)]
        return "auto", {str(one.get("name")) for one in functions if isinstance(one, dict)}
    raise ValueError(f"tool_choice={_shown(given)} is not offered: the policy decides (auto), or has no tools (none)")


class Choose(Shape):
    """A request for one of some options."""

    messages: list[ChatMessage] = Field(min_length=1)
    options: list[str] = Field(min_length=1, max_length=MAX_OPTIONS)

    @field_validator("options")
    @classmethod
    def _bounded(cls, options: list[str]) -> list[str]:
        size = sum(len(option.encode(errors="replace")) for option in options)
        if size > MAX_OPTION_BYTES:
            raise ValueError(f"{size:,} bytes of options; at most {MAX_OPTION_BYTES:,} together")
        return options


class Block(_Loose):
    """A block of Anthropic's content; thinking is dropped."""

    type: str = Field(pattern="^(text|tool_use|tool_result|thinking|redacted_thinking)$")
    text: str = ""
    id: str = ""
    name: str = ""
    input: Any = None
    tool_use_id: str = ""
    content: str | list[Part] | None = None


class AnthropicMessage(_Loose):
    """A message of Anthropic's, as received or as sent."""

    role: str = Field(pattern="^(user|assistant)$")
    content: str | list[Block]


class _AnthropicTool(_Loose):
    type: str | None = Field(default=None, pattern="^custom$")
    name: str = Field(pattern=_NAME)
    description: str | None = ""
    input_schema: dict[str, Any]


class Messages(Shape):
    """A request for an Anthropic message."""

    messages: list[AnthropicMessage] = Field(min_length=1)
    system: str | list[Part] | None = None
    tools: list[_AnthropicTool] | None = None
    tool_choice: dict[str, Any] | None = None
    max_tokens: int = Field(ge=1, le=_MOST_TOKENS)
    stop_sequences: list[str] | None = None
    stream: bool | None = None
    model: Any = None
    temperature: Any = None
    top_p: Any = None
    top_k: Any = None
    metadata: Any = None
    service_tier: Any = None
    inference_geo: Any = None
    cache_control: Any = None

    @model_validator(mode="before")
    @classmethod
    def _neutral(cls, body: Any) -> Any:
        return _refuse(body, _NEUTRAL_MESSAGES)

    @model_validator(mode="after")
    def _choosable(self) -> Self:
        _tool_choice(self.tool_choice)
        return self

    @property
    def offered(self) -> tuple[Tool, ...]:
        """The tools that the policy may call."""
        if _tool_choice(self.tool_choice)[0] == "none":
            return ()
        return tuple(
            {
                "type": "function",
                "function": {
                    "name": tool.name,
                    "description": tool.description or "",
                    "parameters": tool.input_schema,
                },
            }
            for tool in self.tools or ()
        )
