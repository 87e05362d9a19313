"""Tool calls as servers send them, and as they are sent back.

Servers send arguments as a JSON text, as an object, as null, or twice encoded, and calls without an id or a name. A
reply keeps the arguments as the model wrote them. A history is always well formed, because many servers parse it:
arguments that are not a JSON object are sent back as {"invalid_json": TEXT}.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from sia_core.domain.json_data import parse
from sia_core.domain.rollout import ToolCall

INVALID: Final = "invalid_json"
"""Name under which a history quotes arguments that are not a JSON object."""
UNNAMED: Final = "unnamed"
_NAME: Final = re.compile(r"[^a-zA-Z0-9_-]")
_LONGEST_NAME: Final = 64


def arguments_text(value: Any) -> str:
    """Return the arguments of a call as a JSON text, in any form that a server sends."""
    if isinstance(value, str):
        return value
    return "{}" if value is None else json.dumps(value)


def arguments_object(text: str) -> dict[str, Any] | None:
    """Return the arguments of a call as an object; None if they are not one, or if no record can hold them."""
    try:
        found = parse(text) if text.strip() else {}
        found = parse(found) if isinstance(found, str) else found
    except ValueError:
        return None
    found = {} if found is None else found
    return found if isinstance(found, dict) else None


def well_formed(text: str) -> str:
    """Return arguments as the text of a JSON object. An object's text is returned unchanged."""
    found = arguments_object(text)
    if found is None:
        return json.dumps({INVALID: text})
    return text if text.strip().startswith("{") else json.dumps(found)


def with_ids(calls: Iterable[ToolCall], key: str) -> tuple[ToolCall, ...]:
    """Give each call an id of its own: the server's, or one made of the request's key and the call's place."""
    made: list[ToolCall] = []
    for place, call in enumerate(calls):
        taken = not call.id or call.id in {one.id for one in made}
        made.append(replace(call, id=f"call_{key[:12]}_{place}") if taken else call)
    return tuple(made)


def sent_back(calls: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the `tool_calls` of an assistant's message, well formed."""
    return [{**call, "function": _function(call["function"])} for call in calls]


def tool_name(name: Any) -> str:
    """Return the name of a tool in the characters that every server takes."""
    return _NAME.sub("_", str(name or UNNAMED))[:_LONGEST_NAME]


def _function(function: Mapping[str, Any]) -> dict[str, Any]:
    arguments = well_formed(arguments_text(function.get("arguments")))
    return {**function, "name": tool_name(function.get("name")), "arguments": arguments}
