"""What is kept of a conversation."""

from dataclasses import asdict
from typing import Any

from sia_core.agents.conversation import Conversation


def conversation_record(conversation: Conversation, **more: Any) -> dict[str, Any]:
    """Messages, what they took, and the submissions that were not taken, as JSON data."""
    transcript = conversation.transcript
    return {
        "messages": transcript.messages,
        "usage": asdict(transcript.usage),
        "not_taken": transcript.attempts,
        **more,
    }
