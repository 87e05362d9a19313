"""Choosing among options where the model gives no tokens: a schema that allows nothing else, and an exact reading.

A schema binds most servers, not all, and none when a reply is cut short: a reply that is no option is asked
for again, twice at most. No logprobs come of it, and none are made up.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

from sia_core.policy.protocol import Completion, RejectedRequestError

ATTEMPTS: Final = 3
_AROUND: Final = 64
"""Tokens around an option: braces, the field's name, quotes."""


def check_options(options: Sequence[str]) -> None:
    """Raise RejectedRequestError for options that cannot be chosen from."""
    if not options or len(set(options)) < len(options):
        what = f"{len(options)} options, {len(set(options))} of them different"
        raise RejectedRequestError(what, where="options", hint="give at least one, and none twice")


def schema_of(options: Sequence[str]) -> dict[str, Any]:
    """JSON schema of an object whose `choice` is one of the options."""
    return {
        "type": "object",
        "properties": {"choice": {"type": "string", "enum": list(options)}},
        "required": ["choice"],
        "additionalProperties": False,
    }


def room_for(options: Sequence[str], max_tokens: int) -> int:
    """Tokens that let each option through: no token is shorter than a byte."""
    return max(max_tokens, max(len(json.dumps(option)) for option in options) + _AROUND)


def choose(options: Sequence[str], ask: Callable[[int], Completion], where: str) -> Completion:
    """A reply that is one of the options, with the tokens of all attempts.

    Args:
        ask: the n-th attempt: a reply whose text is JSON of the schema.

    Raises:
        RejectedRequestError: options that cannot be chosen from, or no attempt gave one.
    """
    check_options(options)
    prompt = output = 0
    text = ""
    for attempt in range(ATTEMPTS):
        done = ask(attempt)
        prompt, output, text = prompt + done.prompt_tokens, output + done.output_tokens, done.text
        picked = _picked(text)
        if picked is not None and picked in options:
            return replace(done, text=picked, finish="stop", tool_calls=(), prompt_tokens=prompt, output_tokens=output)
    what = f"the model replied {text[:80]!r} at last, {ATTEMPTS} times none of the {len(options)} options"
    raise RejectedRequestError(what, where=where)


def _picked(text: str) -> str | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    choice = value.get("choice") if isinstance(value, dict) else None
    return choice if isinstance(choice, str) else None
