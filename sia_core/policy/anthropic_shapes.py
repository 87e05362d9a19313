"""Translate messages and tools of OpenAI's chat completions for Anthropic's messages API."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from sia_core.policy.calls import sent_back, tool_name
from sia_core.policy.protocol import Message, Tool


def translate_messages(messages: Sequence[Message]) -> tuple[str, list[dict[str, Any]]]:
    """Return the system text, and turns that alternate between user and assistant.

    All system messages are joined at the front. Tool results belong to the user's turn, before the user's text.
    """
    system = "\n\n".join(str(message["content"]) for message in messages if message["role"] == "system")
    turns: list[dict[str, Any]] = []
    for message in messages:
        blocks = [] if message["role"] == "system" else _blocks(message)
        if not blocks:
            continue
        role = "assistant" if message["role"] == "assistant" else "user"
        if not turns or turns[-1]["role"] != role:
            turns.append({"role": role, "content": []})
        turns[-1]["content"] += blocks
    return system, turns


def translate_tool(tool: Tool) -> dict[str, Any]:
    """Translate a tool's definition."""
    function = tool["function"]
    schema = {"type": "object", **(function.get("parameters") or {})}
    return {"name": function["name"], "description": function.get("description", ""), "input_schema": schema}


def _blocks(message: Message) -> list[dict[str, Any]]:
    text = str(message.get("content") or "")
    if message["role"] == "tool":
        return [{"type": "tool_result", "tool_use_id": _id(message.get("tool_call_id")), "content": text}]
    if message.get("blocks"):
        # The API refuses calls without their unchanged thinking.
        return [_again(block) for block in message["blocks"]]
    # The API takes no text without letters.
    said = [{"type": "text", "text": text}] if text.strip() else []
    return [*said, *map(_use, sent_back(message.get("tool_calls") or ()))]


def _again(block: Mapping[str, Any]) -> dict[str, Any]:
    """Return a block as it came; id and name of a call of a server that imitates the API may need other characters."""
    if block["type"] != "tool_use":
        return dict(block)
    return {**block, "id": _id(block["id"]), "name": tool_name(block["name"])}


def _use(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call["function"]
    given = json.loads(function["arguments"])
    return {"type": "tool_use", "id": _id(call.get("id")), "name": function["name"], "input": given}


def _id(text: Any) -> str:
    """Replace characters of an identifier that this API does not take."""
    return re.sub(r"[^a-zA-Z0-9_-]", "_", str(text))
