"""A model with scripted replies, which keeps the requests that it received."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sia_core.domain.candidate import Adapter
from sia_core.domain.rollout import ToolCall
from sia_core.policy.protocol import Completion, Request


@dataclass
class Script:
    """A `Policy` with scripted replies; the last reply is repeated."""

    replies: Sequence[Completion | Exception]
    requests: list[Request] = field(default_factory=list)
    spec: str = "script"
    digest: str = "script"
    trainable: bool = False
    concurrency: int = 1

    def sample(self, request: Request) -> Completion:
        self.requests.append(request)
        reply = self.replies[min(len(self.requests), len(self.replies)) - 1]
        if isinstance(reply, Exception):
            raise reply
        return reply

    def probe(self, adapter: Adapter | None = None) -> tuple[float, ...]:
        return ()

    def told(self, at: int = -1) -> list[str]:
        """Return the answers of tools before a request."""
        return [str(message["content"]) for message in self.requests[at].messages if message["role"] == "tool"]


def call(name: str, /, **arguments: Any) -> ToolCall:
    """A call as a model makes it."""
    return ToolCall(f"id-{name}", name, json.dumps(arguments))


def calls(*made: ToolCall, tokens: int = 10) -> Completion:
    """A reply that calls tools."""
    return Completion("", "", finish="tool_calls", tool_calls=made, prompt_tokens=tokens, output_tokens=1)


def says(text: str) -> Completion:
    """A reply that calls no tool."""
    return Completion(text, "", prompt_tokens=10, output_tokens=1)
