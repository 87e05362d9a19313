"""Reasons why a reply ended, under one name for all servers.

`stop`, `tool_calls`, `length` (the reply was cut at its limit, and is never whole) and `content_filter` (the model or
its provider refused). A reason that no server is known to send is kept as it is.
"""

from typing import Final

LENGTH: Final = "length"
REFUSED: Final = "content_filter"
_NAMES: Final = {
    "stop": ("end_turn", "stop_sequence", "eos", "eos_token", "end", "complete", "completed"),
    "tool_calls": ("tool_use", "function_call", "tool_call"),
    LENGTH: ("max_tokens", "max_output_tokens", "model_length", "model_context_window_exceeded", "max_length"),
    REFUSED: ("refusal", "content_filtered", "safety", "sensitive", "blocked", "recitation", "prohibited_content"),
}
_FINISH: Final = {name: finish for finish, names in _NAMES.items() for name in names}
BROKEN: Final = ("error", "abort", "aborted", "cancelled", "insufficient_system_resource", "network_error")
"""Reasons of replies that a server broke off for its own sake."""


def finish_of(reason: str, *, calls: bool) -> str:
    """Return the name of a reason.

    Args:
        calls: True if the reply calls tools, which some servers say by `stop`.
    """
    finish = _FINISH.get(reason.lower(), reason.lower() if reason.lower() in _NAMES else reason)
    return "tool_calls" if calls and finish == "stop" else finish
