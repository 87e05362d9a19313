"""A Feedback-Agent's model behind a provider's wire format, with scripted replies for each generation."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.wire.server import Handler, chat, message
from tests.wire.streams import DONE, USAGE, chunk, stream

Said = tuple[str, Mapping[str, Any]]
"""Name and arguments of a tool call."""
Step = Callable[["Asked"], Sequence[Said]]


@dataclass(frozen=True)
class Asked:
    """A request in the format of either provider."""

    generation: int
    """Number of the generation; 0 if the first harness is to be written."""
    turn: int
    """Replies that came before, in this conversation."""
    ids: Sequence[str]
    """Rollouts that the first message shows."""
    results: Sequence[str]
    """Texts of the answers of tools."""


@dataclass
class Brain:
    """Answers requests by `script`: generation -> its replies, each a function of what was asked."""

    script: Mapping[int, Sequence[Step]]

    def __call__(self, handler: Handler, body: dict[str, Any]) -> None:
        asked = read(body)
        steps = self.script[asked.generation]
        assert asked.turn < len(steps), f"generation {asked.generation} was not to go on after: {asked.results[-1:]}"
        calls = steps[asked.turn](asked)
        if "system" in body:
            thought = {"type": "thinking", "thinking": "hm", "signature": "c2ln"}
            made = [
                {"type": "tool_use", "id": f"c{asked.turn}{at}", "name": name, "input": dict(given)}
                for at, (name, given) in enumerate(calls)
            ]
            message(thought, *made, stop="tool_use")(handler, body)
            return
        functions = [
            {
                "id": f"c{asked.turn}{at}",
                "type": "function",
                "function": {"name": name, "arguments": json.dumps(given)},
            }
            for at, (name, given) in enumerate(calls)
        ]
        if body.get("stream"):
            parts = [chunk({"tool_calls": [{"index": at, **call}]}) for at, call in enumerate(functions)]
            stream([*parts, chunk({}, "tool_calls"), chunk(usage=USAGE), DONE])(handler, body)
            return
        chat(None, calls=functions, finish="tool_calls")(handler, body)


def read(body: Mapping[str, Any]) -> Asked:
    """Read a request of either provider."""
    messages = body["messages"]
    texts = [_texts(entry["content"]) for entry in messages if entry["role"] in ("user", "tool")]
    first = next(entry["content"] for entry in messages if entry["role"] == "user")
    opening = "\n".join(_texts(first))
    found = re.search(r"# (?:Generation (\d+)|First harness)", opening)
    assert found is not None, opening[:200]
    return Asked(
        int(found[1] or 0),
        sum(entry["role"] == "assistant" for entry in messages),
        re.findall(r"rollout ([0-9a-f]{12}), clean", opening),
        [text for entry in texts[1:] for text in entry],
    )


def _texts(content: Any) -> list[str]:
    if isinstance(content, str):
        return [content]
    return [str(block.get("text") or block.get("content") or "") for block in content or ()]
