"""Agents that are language models, and the record of their conversations."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from sia_core.agents.conversation import Allowance, Conversation
from sia_core.agents.prices import Price
from sia_core.agents.tools import Tool
from sia_core.agents.tracing import NO_TRACE, Trace
from sia_core.host.progress import SILENT, Reporter
from sia_core.policy.protocol import Policy

Keep = Callable[[int, int, Mapping[str, Any]], None]
"""Receives the generation (0 before the first), the number of the sibling, and the record of one conversation."""


@dataclass
class ModelAgent:
    """An agent that is a language model."""

    spec: str
    model: Policy
    allowance: Allowance = field(kw_only=True)
    price: Price | None = field(kw_only=True)
    keep: Keep = field(kw_only=True)
    trace: Trace = field(default=NO_TRACE, kw_only=True)
    reporter: Reporter = field(default=SILENT, kw_only=True)

    def conversation(self, tools: Sequence[Tool[Any]], seed: int, label: str = "asking the agent") -> Conversation:
        """Open a conversation within the agent's allowance."""
        means = (self.allowance, self.price, self.trace, self.reporter)
        return Conversation(self.model, tools, seed, *means, label)


def conversation_record(conversation: Conversation, **more: Any) -> dict[str, Any]:
    """Messages, usage, and reasons why submissions were not accepted, as JSON data."""
    transcript = conversation.transcript
    return {
        "messages": transcript.messages,
        "usage": asdict(transcript.usage),
        "not_taken": transcript.attempts,
        "notes": transcript.notes,
        **more,
    }
