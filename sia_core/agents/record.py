"""Record of a conversation."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from sia_core.agents.conversation import Conversation

Keep = Callable[[int, int, Mapping[str, Any]], None]
"""Receives the generation (0 before the first), the number of the sibling, and the record of one conversation."""


def conversation_record(conversation: Conversation, **more: Any) -> dict[str, Any]:
    """Messages, usage, and reasons why submissions were not accepted, as JSON data."""
    transcript = conversation.transcript
    return {
        "messages": transcript.messages,
        "usage": asdict(transcript.usage),
        "not_taken": transcript.attempts,
        **more,
    }
