"""Read messages of Anthropic's API, and of servers that imitate it, into completions."""

import json
from collections.abc import Sequence
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field, field_validator

from sia_core.domain.endings import BROKEN, finish_of
from sia_core.domain.json_data import flaw
from sia_core.domain.rollout import ToolCall
from sia_core.policy.calls import arguments_object, arguments_text, well_formed, with_ids
from sia_core.policy.openai_shapes import Count
from sia_core.policy.protocol import Completion, Request
from sia_core.policy.scripted import render
from sia_core.policy.server import Answer

_KEPT: Final = {
    "text": ("text",),
    "thinking": ("thinking", "signature"),
    "redacted_thinking": ("data",),
    "tool_use": ("id", "name", "input"),
}
"""Fields that the API accepts in each kind of returned block."""
_Text = Annotated[str, BeforeValidator(lambda value: "" if value is None else value)]


class _Block(Answer):
    type: str = "text"
    text: _Text = ""
    id: _Text = ""
    name: _Text = ""
    input: Any = None
    thinking: _Text = ""
    signature: _Text = ""
    data: _Text = ""


class _Usage(Answer):
    input_tokens: Count = 0
    output_tokens: Count = 0
    cache_read_input_tokens: Count = 0
    cache_creation_input_tokens: Count = 0


class Reply(Answer):
    """A message without a stream."""

    content: list[_Block] = Field(default=[])
    stop_reason: str
    """Reason of the end; missing if the stream ended early."""
    usage: _Usage = _Usage()

    @field_validator("content", mode="before")
    @classmethod
    def _blocks(cls, value: Any) -> Any:
        if value is None or isinstance(value, str):
            return [{"text": value or ""}]
        return [block for block in value if block is not None] if isinstance(value, list) else value

    @field_validator("stop_reason", mode="after")
    @classmethod
    def _whole(cls, reason: str) -> str:
        if reason.lower() in BROKEN:
            raise ValueError(f"the server broke the reply off ({reason})")
        return reason


def read_completion(request: Request, reply: Reply) -> Completion:
    """Return a message as a completion."""
    usage = reply.usage
    used = [block for block in reply.content if block.type == "tool_use"]
    calls = with_ids((ToolCall(one.id, one.name, arguments_text(one.input)) for one in used), request.key)
    return Completion(
        "".join(block.text for block in reply.content if block.type == "text"),
        render(request.messages),
        finish=finish_of(reply.stop_reason, calls=bool(calls)),
        tool_calls=calls,
        prompt_tokens=usage.input_tokens + usage.cache_read_input_tokens + usage.cache_creation_input_tokens,
        output_tokens=usage.output_tokens,
        cached_tokens=usage.cache_read_input_tokens,
        cache_write_tokens=usage.cache_creation_input_tokens,
        blocks=_as_sent(reply.content, calls),
    )


def _as_sent(content: Sequence[_Block], calls: Sequence[ToolCall]) -> tuple[dict[str, Any], ...]:
    """Return the blocks to send back with the next request, if there is more than text and tool calls.

    The API takes no text without letters, and no thinking without a text or a call after it.
    """
    if all(block.type in ("text", "tool_use") for block in content):
        return ()
    made: list[dict[str, Any]] = []
    left = list(calls)
    for block in content:
        if block.type == "tool_use":
            call = left.pop(0)
            made.append({"type": "tool_use", "id": call.id, "name": call.name, "input": _object(call.arguments)})
        elif block.type in _KEPT and (block.type != "text" or block.text.strip()):
            made.append({"type": block.type, **{name: getattr(block, name) for name in _KEPT[block.type]}})
    said = any(block["type"] in ("text", "tool_use") for block in made)
    return tuple(made) if said and not flaw(made) else ()


def _object(arguments: str) -> Any:
    found = arguments_object(arguments)
    return json.loads(well_formed(arguments)) if found is None else found
