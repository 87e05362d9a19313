"""Choose among options without access to tokens: by a schema that allows only the options, and an exact match.

Not every server enforces a schema, and none does for a reply that is cut off: a reply that is not an option is
requested again, twice at most. The choice has no logprobs.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

from sia_core.policy.protocol import Completion, RejectedRequestError

ATTEMPTS: Final = 3
_AROUND: Final = 64
"""Maximum tokens around an option: braces, the field's name, quotes."""


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
    """Return a token limit that every option fits: no token is shorter than a byte."""
    return max(max_tokens, max(len(json.dumps(option)) for option in options) + _AROUND)


def choose(options: Sequence[str], ask: Callable[[int], Completion], where: str) -> Completion:
    """Get a reply that is one of the options, with the token counts of all attempts.

    Args:
        ask: function from the attempt's number to a reply whose text is JSON of the schema.

    Raises:
        RejectedRequestError: invalid options, or no attempt returned an option.
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
    what = f"{ATTEMPTS} replies of the model were none of the {len(options)} options; the last: {text[:80]!r}"
    raise RejectedRequestError(what, where=where)


def _picked(text: str) -> str | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    choice = value.get("choice") if isinstance(value, dict) else None
    return choice if isinstance(choice, str) else None
