"""Messages of a conversation as a model is sent them: its replies, answers of tools, and calls in the form of text."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from sia_core.domain.rollout import ToolCall
from sia_core.policy.protocol import Completion

_SILENT: Final = "(no text)"


def own_ids(calls: Sequence[ToolCall], used: set[str], turn: int) -> list[ToolCall]:
    """Give each call an id that no earlier call of the conversation has, and add the ids to `used`.

    Some servers number the calls of each reply from 0, and send no ids at all.
    """
    made = []
    for place, call in enumerate(calls):
        number = call.id if call.id and call.id not in used else f"call_{turn}_{place}"
        while number in used:
            number += "_"
        used.add(number)
        made.append(replace(call, id=number))
    return made


def said(completion: Completion, calls: Sequence[ToolCall]) -> dict[str, Any]:
    """Return the message of a reply with these calls."""
    message: dict[str, Any] = {"role": "assistant", "content": completion.text or (None if calls else _SILENT)}
    if calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in calls
        ]
    if completion.blocks:
        left = list(calls)
        message["blocks"] = [
            {**block, "id": left.pop(0).id} if block["type"] == "tool_use" and left else block
            for block in completion.blocks
        ]
    if completion.thinking:
        message["thinking"] = dict(completion.thinking)
    return message


def answered(calls: Sequence[ToolCall], answers: Sequence[str], *, as_text: bool) -> list[dict[str, Any]]:
    """Return the messages that answer calls; one message of the user where the calls were text."""
    if not as_text:
        pairs = zip(calls, answers, strict=True)
        return [{"role": "tool", "tool_call_id": call.id, "content": text} for call, text in pairs]
    return [{"role": "user", "content": "\n\n".join(map(_response, (call.name for call in calls), answers))}]


def told_as_text(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the same conversation with every call and answer as text, for servers that refuse the calls."""
    names: dict[str, str] = {}
    made: list[dict[str, Any]] = []
    for message in messages:
        if message["role"] == "assistant":
            calls = message.get("tool_calls") or ()
            names |= {call["id"]: call["function"]["name"] for call in calls}
            texts = [message.get("content") or "", *map(_written, calls)]
            made.append({"role": "assistant", "content": "\n".join(filter(None, texts)) or _SILENT})
        elif message["role"] == "tool":
            text = _response(names.get(message["tool_call_id"], ""), str(message["content"]))
            _add_to_user(made, text)
        elif message["role"] == "user":
            _add_to_user(made, str(message["content"]))
        else:
            made.append(dict(message))
    return made


def _add_to_user(made: list[dict[str, Any]], text: str) -> None:
    if made and made[-1]["role"] == "user":
        made[-1] = {"role": "user", "content": f"{made[-1]['content']}\n\n{text}"}
    else:
        made.append({"role": "user", "content": text})


def _written(call: Mapping[str, Any]) -> str:
    function = call["function"]
    try:
        given = json.loads(function["arguments"])
    except (ValueError, RecursionError):
        given = function["arguments"]
    return f"<tool_call>\n{json.dumps({'name': function['name'], 'arguments': given})}\n</tool_call>"


def _response(name: str, text: str) -> str:
    return f'<tool_response name="{name}">\n{text}\n</tool_response>'
