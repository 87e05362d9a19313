"""Read calls of tools that a model wrote as text, for servers without a parser of their model's calls.

Three forms are read: <tool_call>JSON</tool_call>, a fence of JSON (```json, ```tool_call, ```), and a reply that is
nothing but JSON. The JSON is an object with `name` and `arguments` (or `parameters`), or a list of such objects. A name
has to be one of the offered tools, so that a quoted object is not taken for a call.
"""

import json
import re
from collections.abc import Collection, Iterator
from typing import Any, Final

from sia_core.domain.rollout import ToolCall
from sia_core.policy.calls import arguments_text

_THOUGHT: Final = re.compile(r"^.*</think(?:ing)?>", re.DOTALL)
_TAGGED: Final = re.compile(r"<tool_call>\s*(.*?)\s*</tool_call>", re.DOTALL)
_FENCED: Final = re.compile(r"```(?:json|tool_calls?|tool_code)?[ \t]*\n(.*?)\n[ \t]*```", re.DOTALL)


def written_calls(text: str, offered: Collection[str]) -> list[ToolCall]:
    """Return the calls in a reply, in the order of their text and without ids; empty if there is none.

    Args:
        text: the reply; thinking before `</think>` is not read.
        offered: names of the tools that were offered.
    """
    said = _THOUGHT.sub("", text)
    for found in (_TAGGED.findall(said), _FENCED.findall(said), [said]):
        calls = [call for part in found for call in _calls(part, offered)]
        if calls:
            return calls
    return []


def _calls(text: str, offered: Collection[str]) -> Iterator[ToolCall]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return
    for one in found if isinstance(found, list) else [found]:
        call = one.get("function") if isinstance(one, dict) and isinstance(one.get("function"), dict) else one
        if isinstance(call, dict) and _is_call(call) and call["name"] in offered:
            yield ToolCall("", call["name"], arguments_text(call.get("arguments", call.get("parameters"))))


def _is_call(call: dict[str, Any]) -> bool:
    return isinstance(call.get("name"), str) and ("arguments" in call or "parameters" in call)
