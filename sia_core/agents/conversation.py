"""One conversation with a language model that reads through tools until it submits.

The conversation is bounded in turns, tokens, money and context. All messages are recorded. Reading tools answer an
invalid call with the error; an invalid submission comes back with the exact error, up to ATTEMPTS times.

A reply that was cut at its limit is never acted on: the model is asked for a shorter one, CUTS times in a row at most.
A refusal ends the conversation. Calls that are written as text are read where the server returns none. A server that
refuses the history of calls is sent the same history as text, once and for the rest of the conversation.
"""

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

from sia_core.agents.dialogue import answered, own_ids, said, told_as_text
from sia_core.agents.prices import Price, usage_of
from sia_core.agents.tools import Arguments, ArgumentsError, Tool, answer, parse_arguments
from sia_core.agents.tracing import Trace
from sia_core.agents.written_calls import written_calls
from sia_core.domain.config import MAX_VALIDATIONS, REPLY_TOKENS
from sia_core.domain.endings import LENGTH, REFUSED
from sia_core.domain.hashing import derive_seed
from sia_core.domain.rollout import Sampling, ToolCall
from sia_core.domain.usage import ModelUsage
from sia_core.host.progress import Reporter, Wait
from sia_core.policy.protocol import Completion, Policy, RejectedRequestError, Request
from sia_core.policy.window import TooLongError

ATTEMPTS = MAX_VALIDATIONS
"""Maximum number of submissions; each invalid one comes back with its faults."""
_CHARACTERS = 4
"""Characters per token, about; a reply that is still streaming is counted in characters."""
_LAST_TURNS = 3
"""Number of last turns in which tool answers end with the number of turns left."""
CUTS: Final = 3
"""Replies in a row that may be cut at their limit."""
_FILTERED: Final = re.compile(r"content[ _](?:filter|management|policy)|safety", re.IGNORECASE)
"""Errors of servers that filter what is sent to a model."""
_QUOTED: Final = 300

T = TypeVar("T")
S = TypeVar("S", bound=Arguments)


class SubmissionError(Exception):
    """A submission that is not accepted; the message is written for its author."""


class NoSubmissionError(Exception):
    """The conversation ended without an accepted submission; the message says why."""


@dataclass(frozen=True)
class Allowance:
    """Limits of one conversation."""

    turns: int = 30
    """Requests to the model."""
    tokens: int = 600_000
    """Prompt and output tokens of all requests together."""
    dollars: float | None = None
    context: int = 200_000
    """Characters of tool answers; after them, tools answer only that a submission is due."""
    reply: int = REPLY_TOKENS
    """Tokens of one reply, thinking included."""


@dataclass(frozen=True)
class Submit(Generic[S, T]):
    """The tool that ends the conversation."""

    name: str
    help: str
    arguments: type[S]
    take: Callable[[S], T]
    """Function that accepts the submission's arguments, or raises SubmissionError."""


@dataclass
class Transcript:
    """Messages and usage of a conversation."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    usage: ModelUsage = field(default_factory=ModelUsage)
    attempts: list[str] = field(default_factory=list)
    """Reasons why submissions were not accepted."""
    notes: list[str] = field(default_factory=list)
    """Unusual replies, and how they were taken."""


@dataclass
class Conversation:
    """A conversation with the model of one agent about one decision."""

    model: Policy
    tools: Sequence[Tool[Any]]
    seed: int
    allowance: Allowance
    price: Price | None
    trace: Trace
    reporter: Reporter
    label: str
    """Names what is waited for to `reporter`."""
    transcript: Transcript = field(default_factory=Transcript)

    def __post_init__(self) -> None:
        self._began, self._shown = time.time(), 0
        self._cuts = 0
        self._ids: set[str] = set()
        self._as_text = False

    def run(self, system: str, opening: str, submit: Submit[S, T]) -> T:
        """Talk until a submission is accepted.

        Raises:
            NoSubmissionError: the allowance is used up, ATTEMPTS submissions were invalid, or the model refuses.
            EndpointError: the model's server does not answer. The run ends and can be resumed; its log
                (`policy.log`) holds the received replies, so only the missing turn is requested again.
            PolicyError: the model cannot be used at all.
        """
        messages = self.transcript.messages
        messages += [{"role": "system", "content": system}, {"role": "user", "content": opening}]
        while True:
            self._check_allowance()
            completion = self._ask(submit)
            self._check_refusal(completion)
            if completion.finish == LENGTH:
                self._ask_for_less(completion, submit.name)
                continue
            self._cuts = 0
            calls, as_text = self._calls(completion, submit.name)
            messages.append(said(completion, () if as_text else calls))
            if not calls:
                messages.append({"role": "user", "content": f"Call a tool, or {submit.name} when you have decided."})
                continue
            answers: list[str] = []
            for call in calls:
                if call.name == submit.name:
                    try:
                        return submit.take(parse_arguments(call, submit.arguments))
                    except (ArgumentsError, SubmissionError) as error:
                        answers.append(self._not_taken(str(error)))
                else:
                    answers.append(self._answer(call, submit.name))
            messages += answered(calls, answers, as_text=as_text)

    def _check_allowance(self) -> None:
        used, allowed = self.transcript.usage, self.allowance
        if used.requests >= allowed.turns:
            raise NoSubmissionError(f"no decision in {used.requests} turns")
        if used.tokens >= allowed.tokens:
            raise NoSubmissionError(f"no decision for {used.tokens} tokens, {allowed.tokens} are allowed")
        if allowed.dollars is not None and used.dollars is not None and used.dollars >= allowed.dollars:
            raise NoSubmissionError(f"no decision for {used.dollars:.4f} dollars, {allowed.dollars:g} are allowed")

    def _check_refusal(self, completion: Completion) -> None:
        if completion.finish == REFUSED:
            said_so = " ".join(completion.text.split())[:_QUOTED]
            why = f": {said_so}" if said_so else ", by a content filter and without a text"
            raise NoSubmissionError(f"the model refused to answer ({REFUSED}){why}")

    def _ask_for_less(self, completion: Completion, submit: str) -> None:
        """Answer a reply that was cut, of which nothing is done."""
        self._cuts += 1
        tokens = completion.output_tokens or self.allowance.reply
        self.transcript.notes.append(f"turn {self.transcript.usage.requests}: cut at {tokens} tokens")
        if self._cuts >= CUTS:
            raise NoSubmissionError(
                f"{self._cuts} replies in a row were cut, the last at {tokens} tokens: allow longer ones "
                "(--agent-reply-tokens), give the model's server a larger window, or let the model think less"
            )
        lost = ", ".join(dict.fromkeys(call.name for call in completion.tool_calls))
        self.transcript.messages += [
            {"role": "assistant", "content": completion.text or "(cut off)"},
            {
                "role": "user",
                "content": f"Your reply was cut at {tokens} tokens, the limit of one reply. Nothing of it was done"
                f"{f': the calls of {lost} were dropped' if lost else ''}. Answer in fewer tokens: think less, change "
                f"less at once, and call a tool, or {submit} when you have decided.",
            },
        ]

    def _calls(self, completion: Completion, submit: str) -> tuple[list[ToolCall], bool]:
        """Return the calls of a reply, and True if they were written as text."""
        turn = self.transcript.usage.requests
        if completion.tool_calls:
            return own_ids(completion.tool_calls, self._ids, turn), False
        calls = written_calls(completion.text, {*(tool.name for tool in self.tools), submit})
        if calls:
            names = ", ".join(call.name for call in calls)
            self.transcript.notes.append(f"turn {turn}: calls were written as text, and read: {names}")
        return calls, True

    def _ask(self, submit: Submit[S, T]) -> Completion:
        try:
            return self._sample(submit)
        except RejectedRequestError as error:
            final = isinstance(error, TooLongError) or _FILTERED.search(error.what) or self._as_text
            if final or not any(message.get("tool_calls") for message in self.transcript.messages):
                hint = f"; {error.hint}" if error.hint else ""
                raise NoSubmissionError(f"the model's server refused the conversation: {error.what}{hint}") from error
            turn = self.transcript.usage.requests + 1
            self.transcript.notes.append(f"turn {turn}: calls are sent as text, because of: {error.what}")
        self._as_text = True
        return self._ask(submit)

    def _sample(self, submit: Submit[S, T]) -> Completion:
        turn = self.transcript.usage.requests
        schema = Tool(submit.name, submit.help, submit.arguments, str).schema
        messages = self.transcript.messages
        request = Request(
            tuple(told_as_text(messages) if self._as_text else messages),
            Sampling(1.0, self.allowance.reply),
            derive_seed(self.seed, turn),
            tools=(*(tool.schema for tool in self.tools), schema),
            growing=True,
            on_progress=lambda characters: self._report(turn + 1, characters // _CHARACTERS),
        )
        with self.trace.span("LLM", f"turn {turn + 1}", {"messages": request.messages[-4:]}) as span:
            self._report(turn + 1)
            try:
                completion = self.model.sample(request)
            finally:
                self.reporter.waiting(None)
            span.end(said(completion, completion.tool_calls), completion)
        self.transcript.usage += usage_of(completion, self.price)
        return completion

    def _report(self, turn: int, streamed: int = 0) -> None:
        """Report the reply that is awaited; `streamed` counts its output tokens so far."""
        tokens = self.transcript.usage.tokens + streamed
        self.reporter.waiting(Wait(self.label, turn, tokens, self._began))

    def _answer(self, call: ToolCall, submit: str) -> str:
        allowed = self.allowance
        if self._shown >= allowed.context:
            return f"error: {self._shown} characters were read, {allowed.context} are allowed: call {submit} now"
        with self.trace.span("TOOL", call.name, {"arguments": call.arguments}) as span:
            text = answer(self.tools, call)
            span.end(text)
        self._shown += len(text)
        left = allowed.turns - self.transcript.usage.requests
        return f"{text}\n\n({left} turns are left: call {submit} before they end)" if left <= _LAST_TURNS else text

    def _not_taken(self, why: str) -> str:
        self.transcript.attempts.append(why)
        left = ATTEMPTS - len(self.transcript.attempts)
        if not left:
            raise NoSubmissionError(f"{ATTEMPTS} submissions were not taken; the last: {' '.join(why.split())}")
        return f"error: not taken:\n{why}\n({left} more {'submission is' if left == 1 else 'submissions are'} taken)"
