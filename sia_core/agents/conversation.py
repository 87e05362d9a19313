"""One conversation with a language model that reads through tools until it submits.

The conversation is bounded in turns, tokens, money and context. All messages are recorded. Reading tools answer an
invalid call with the error; an invalid submission comes back with the exact error, up to ATTEMPTS times.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from sia_core.agents.prices import Price, usage_of
from sia_core.agents.tools import Arguments, ArgumentsError, Tool, answer, parse_arguments
from sia_core.agents.tracing import Trace
from sia_core.domain.config import MAX_VALIDATIONS
from sia_core.domain.hashing import derive_seed
from sia_core.domain.rollout import Sampling, ToolCall
from sia_core.domain.usage import ModelUsage
from sia_core.host.progress import Reporter, Wait
from sia_core.policy.protocol import Completion, Policy, RejectedRequestError, Request

ATTEMPTS = MAX_VALIDATIONS
"""Maximum number of submissions; each invalid one comes back with its faults."""
_CHARACTERS = 4
"""Characters per token, about; a reply that is still streaming is counted in characters."""
_LAST_TURNS = 3
"""Number of last turns in which tool answers end with the number of turns left."""
MAX_OUTPUT = 16_000
"""Tokens of one reply, thinking included."""

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
            messages.append(_said(completion))
            if not completion.tool_calls:
                messages.append({"role": "user", "content": f"Call a tool, or {submit.name} when you have decided."})
            for call in completion.tool_calls:
                if call.name == submit.name:
                    try:
                        return submit.take(parse_arguments(call, submit.arguments))
                    except (ArgumentsError, SubmissionError) as error:
                        text = self._not_taken(str(error))
                else:
                    text = self._answer(call, submit.name)
                messages.append({"role": "tool", "tool_call_id": call.id, "content": text})

    def _check_allowance(self) -> None:
        used, allowed = self.transcript.usage, self.allowance
        if used.requests >= allowed.turns:
            raise NoSubmissionError(f"no decision in {used.requests} turns")
        if used.tokens >= allowed.tokens:
            raise NoSubmissionError(f"no decision for {used.tokens} tokens, {allowed.tokens} are allowed")
        if allowed.dollars is not None and used.dollars is not None and used.dollars >= allowed.dollars:
            raise NoSubmissionError(f"no decision for {used.dollars:.4f} dollars, {allowed.dollars:g} are allowed")

    def _ask(self, submit: Submit[S, T]) -> Completion:
        turn = self.transcript.usage.requests
        schema = Tool(submit.name, submit.help, submit.arguments, str).schema
        request = Request(
            tuple(self.transcript.messages),
            Sampling(1.0, MAX_OUTPUT),
            derive_seed(self.seed, turn),
            tools=(*(tool.schema for tool in self.tools), schema),
            growing=True,
            on_progress=lambda characters: self._report(turn + 1, characters // _CHARACTERS),
        )
        with self.trace.span("LLM", f"turn {turn + 1}", {"messages": request.messages[-4:]}) as span:
            self._report(turn + 1)
            try:
                completion = self.model.sample(request)
            except RejectedRequestError as error:
                raise NoSubmissionError(f"the model's server refused the conversation: {error.what}") from error
            finally:
                self.reporter.waiting(None)
            span.end(_said(completion), completion)
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


def _said(completion: Completion) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": completion.text or None}
    if completion.tool_calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in completion.tool_calls
        ]
    if completion.blocks:
        message["blocks"] = list(completion.blocks)
    return message
