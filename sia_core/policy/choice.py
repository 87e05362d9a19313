"""Choose among options without access to tokens, by one of two ways.

`schema`: a JSON schema allows only the options. Some servers refuse a schema, others ignore it without an error. The
second way is for them. `numbers`: the options stand numbered in the text, and a reply must be exactly one number or
one option. The first choice finds the way, which is kept for the process. A reply that is no option is requested again,
twice at most. A model that cannot choose is a failure of the endpoint, not of the harness. The choice has no logprobs.
"""

import json
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from sia_core.policy.dialect import THINKING, Learner
from sia_core.policy.faults import NoSchemaError
from sia_core.policy.protocol import (
    Completion,
    EndpointError,
    Message,
    RejectedRequestError,
    Request,
    most_tokens,
    under_ceiling,
)

ATTEMPTS: Final = 3
_AROUND: Final = 64
"""Maximum tokens around an option: braces, the field's name, quotes."""
_FORMS: Final = ("{}", "option {}", "answer {}", "choice no. {}")
"""Forms of the number of an option; a form that is the text of an option is not used."""
_THOUGHT: Final = re.compile(r"\A\s*<think(?:ing)?>.*?</think(?:ing)?>", re.DOTALL)
_DRESS: Final = " \n\t`'\"*.()[]"
"""Characters that may surround a number."""

Schema = Mapping[str, Any]
Ask = Callable[[Request, int, int, Schema | None], Completion]
"""Samples a reply to a request: attempt (0, 1, ...), token limit, and the JSON schema of the reply, if any."""


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


@dataclass
class _Attempts:
    """Attempts at one choice: their number, their tokens, and the last reply."""

    number: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    text: str = ""

    def add(self, done: Completion) -> None:
        self.number += 1
        self.prompt_tokens += done.prompt_tokens
        self.output_tokens += done.output_tokens
        self.text = done.text


class Chooser:
    """Chooses through one server. Thread-safe."""

    def __init__(self, learner: Learner, where: str) -> None:
        self._learner, self._where = learner, where
        self._finding = threading.Lock()

    def choose(self, request: Request, ask: Ask) -> Completion:
        """Get a reply that is one of the request's options, with the token counts of all attempts.

        Raises:
            RejectedRequestError: invalid options, or the request is refused.
            EndpointError: no attempt returned an option.
        """
        check_options(request.options or ())
        if not self._learner.dialect.choices:
            with self._finding:  # The first choice finds the way for all that wait.
                if not self._learner.dialect.choices:
                    return self._choose(request, ask)
        return self._choose(request, ask)

    def _choose(self, request: Request, ask: Ask) -> Completion:
        attempts = _Attempts()
        if self._learner.dialect.choices != "numbers":
            picked = self._by_schema(request, ask, attempts)
            if picked is not None:
                self._learner.learn(choices="schema")
                return picked
        picked = self._by_numbers(request, ask, attempts)
        if picked is not None:
            self._learner.learn(choices="numbers")
            return picked
        count = len(request.options or ())
        what = f"{attempts.number} replies of the model were none of the {count} options; the last: "
        hint = "use a model with structured outputs, or a harness that does not choose among options"
        raise EndpointError(what + repr(attempts.text[:80]), where=self._where, hint=hint)

    def _by_schema(self, request: Request, ask: Ask, attempts: _Attempts) -> Completion | None:
        options = request.options or ()
        for _ in range(ATTEMPTS):
            try:
                done = self._ask(request, ask, attempts, schema_of(options))
            except NoSchemaError:
                return None
            picked = _picked(done.text)
            if picked is not None and picked in options:
                return _whole(done, picked, attempts)
            if picked is None and done.finish == "stop" and not self._learner.dialect.choices:
                return None  # A server that enforces the schema cannot end such a reply.
        return None

    def _by_numbers(self, request: Request, ask: Ask, attempts: _Attempts) -> Completion | None:
        options = request.options or ()
        numbered = replace(request, messages=number_options(request.messages, options))
        for _ in range(ATTEMPTS):
            done = self._ask(numbered, ask, attempts, None)
            picked = read_number(done.text, options)
            if picked is not None:
                return _whole(done, picked, attempts)
        return None

    def _ask(self, request: Request, ask: Ask, attempts: _Attempts, schema: Schema | None) -> Completion:
        """Sample a reply, again with more room if the model spent the room on thinking."""
        room = room_for(request.options or (), request.sampling.max_tokens)
        thinks = self._learner.dialect.thinks
        done = self._once(request, ask, attempts, schema, (room, room + THINKING * thinks))
        if done.finish == "length" and not thinks and _is_thought(done):
            self._learner.learn(thinks=True)
            done = self._once(request, ask, attempts, schema, (room, room + THINKING))
        return done

    def _once(
        self, request: Request, ask: Ask, attempts: _Attempts, schema: Schema | None, room: tuple[int, int]
    ) -> Completion:
        """Sample one reply with room within the two limits, as the request's ceiling allows after earlier attempts."""
        least, most = room
        if request.ceiling is not None:
            prompt = most_tokens(request) + attempts.prompt_tokens + attempts.output_tokens
            under_ceiling(request, prompt, least)
            most = min(most, request.ceiling - prompt)
        done = ask(request, attempts.number, most, schema)
        attempts.add(done)
        return done


def number_options(messages: Sequence[Message], options: Sequence[str]) -> tuple[Message, ...]:
    """Return the messages with the numbered options at the end of the user's last message."""
    listed = "\n".join(f"{number}. {option}" for number, option in zip(_numbers(options), options, strict=True))
    text = f"Choose one of these options:\n{listed}\nReply with the number of one option and nothing else."
    *before, last = messages
    if last["role"] == "user" and isinstance(last.get("content"), str):
        return (*before, {**last, "content": f"{last['content']}\n\n{text}"})
    return (*messages, {"role": "user", "content": text})


def read_number(text: str, options: Sequence[str]) -> str | None:
    """Return the option that a reply names: exactly one number, one option, or a whole line of the list."""
    said = _THOUGHT.sub("", text, count=1).strip()
    bare = said.strip(_DRESS).casefold()
    for number, option in zip(_numbers(options), options, strict=True):
        if said in (option, option.strip(), f"{number}. {option.strip()}") or bare == number:
            return option
    return None


def _numbers(options: Sequence[str]) -> list[str]:
    """Return the number of each option, in a form that is not the text of any option."""
    texts = {option.strip(_DRESS).casefold() for option in options}
    for form in _FORMS:
        numbers = [form.format(at) for at in range(1, len(options) + 1)]
        if not texts.intersection(numbers):
            break
    return numbers


def _is_thought(done: Completion) -> bool:
    """Return True for a reply that was cut before its text began."""
    return not done.text.strip() or done.text.lstrip().startswith("<think") or bool(done.blocks)


def _whole(done: Completion, picked: str, attempts: _Attempts) -> Completion:
    return replace(
        done,
        text=picked,
        finish="stop",
        tool_calls=(),
        prompt_tokens=attempts.prompt_tokens,
        output_tokens=attempts.output_tokens,
    )


def _picked(text: str) -> str | None:
    try:
        value = json.loads(_THOUGHT.sub("", text, count=1))
    except (ValueError, RecursionError):
        return None
    choice = value.get("choice") if isinstance(value, dict) else None
    return choice if isinstance(choice, str) else None
