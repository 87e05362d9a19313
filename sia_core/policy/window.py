"""Limits of tokens that servers name when they refuse a request: their window, the prompt's size, the longest reply.

The texts are those of OpenAI, Anthropic, vLLM, llama.cpp, SGLang, TGI, LiteLLM (which quotes its server), Mistral,
DeepSeek and Groq in 2026.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sia_core.policy.protocol import RejectedRequestError

_N: Final = r"([\d,]*\d)"
_WINDOW: Final = (
    rf"maximum context (?:length|window|size)[^\d.]{{0,20}}{_N}",
    rf"{_N} maximum context length",
    rf"context[ _](?:window|length|size)(?: (?:of|is))? ?\(?`?{_N}",
    rf"max_model_len\D{{0,40}}{_N}",
    rf"exceed context limit: \d+ \+ \d+ > {_N}",
    rf"prompt is too long: \d+ tokens > {_N}",
    rf"max_new_tokens`? must be <= {_N}",
)
_PROMPT: Final = (
    rf"{_N} (?:tokens )?(?:in|of|from) (?:the |your )?(?:messages|prompt|input|text input)\b",
    rf"messages resulted in {_N} tokens",
    rf"(?:has|contains?)(?: at least)? {_N} (?:input |prompt )?tokens",
    rf"request \({_N} tokens\) exceeds",
    rf"input \({_N} tokens\) is longer",
    rf"requested tokens \({_N}\) exceed",
    rf"given: {_N} `inputs` tokens",
    rf"exceed context limit: {_N} \+",
    rf"prompt is too long: {_N} tokens",
)
_REPLY: Final = (
    rf"supports at most {_N} (?:completion|output) tokens",
    rf"max_tokens:? \d+ > {_N}, which is the maximum",
    rf"valid range of max_tokens is \[\d+, ?{_N}\]",
    rf"max_(?:completion_)?tokens`? must be less than or equal to `?{_N}",
)
_AT_LEAST: Final = re.compile(r"contains? at least \d+", re.IGNORECASE)
_FIELDS: Final = {"n_ctx": "window", "n_prompt_tokens": "prompt"}


_NAMED: Final = ("max_model_len", "loaded_context_length", "context_length")


@dataclass(frozen=True)
class Limits:
    """Numbers of tokens that a server named; None for one that it did not name."""

    window: int | None = None
    """Prompt and reply together."""
    prompt: int | None = None
    """Size of the refused prompt."""
    reply: int | None = None
    """Longest reply that the model writes."""
    exact: bool = True
    """False if the prompt may be larger."""


class TooLongError(RejectedRequestError):
    """Prompt and reply together, or the prompt, or the reply alone, exceed a limit of the server."""

    def __init__(self, what: str, *, where: str = "", hint: str = "", limits: Limits = Limits()) -> None:
        super().__init__(what, where=where, hint=hint)
        self.limits = limits


def read_limits(text: str, body: Any = None) -> Limits | None:
    """Read the limits that a server's error names; None for an error about something else.

    Args:
        body: the error's JSON, in which llama.cpp names its limits as numbers.
    """
    inner = body.get("error", body) if isinstance(body, Mapping) else {}
    inner = inner if isinstance(inner, Mapping) else {}
    named = {_FIELDS[name]: inner[name] for name in _FIELDS if _is_count(inner.get(name))}
    window = named.get("window") or _first(_WINDOW, text)
    reply = _first(_REPLY, text)
    if not window and not reply:
        return None
    prompt = named.get("prompt") or _first(_PROMPT, text)
    return Limits(window, prompt, reply, exact=not _AT_LEAST.search(text))


def read_window(models: bytes, model: str) -> int | None:
    """Read a model's window in a list of models: vLLM, OpenRouter and LM Studio name it; None where there is none."""
    try:
        found = json.loads(models)
    except (ValueError, RecursionError):
        return None
    entries = found.get("data") if isinstance(found, dict) else None
    known = [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    mine = [entry for entry in known if entry.get("id") == model] or (known if len(known) == 1 else [])
    windows = (entry.get(name) for entry in mine for name in _NAMED)
    return next(filter(_is_count, windows), None)


def _first(patterns: Sequence[str], text: str) -> int | None:
    for pattern in patterns:
        if found := re.search(pattern, text, re.IGNORECASE):
            return int(found[1].replace(",", "")[:15])
    return None


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
