"""One conversation with a language model that reads through tools until it submits.

Bounded in turns, tokens, money and in the size of its context, whatever the model does and however much there is
to read. Everything that was said is kept for the record. Reading tools answer a wrong call; a wrong submission
comes back with the exact error, ATTEMPTS times.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from sia_core.agents.prices import Price, usage_of
from sia_core.agents.tools import Arguments, ArgumentsError, Tool, answer, parse_arguments
from sia_core.agents.tracing import NO_TRACE, Trace
from sia_core.domain.config import MAX_VALIDATIONS
from sia_core.domain.hashing import derive_seed
from sia_core.domain.rollout import Sampling, ToolCall
from sia_core.domain.usage import ModelUsage
from sia_core.host.progress import SILENT, Reporter, Wait
from sia_core.policy.protocol import Completion, Policy, RejectedRequestError, Request

ATTEMPTS = MAX_VALIDATIONS
"""Submissions that are taken at most; each wrong one comes back with its faults."""
_CHARACTERS = 4
"""Characters of a token, about; a reply that still arrives is counted in characters."""
_LAST_TURNS = 3
"""Turns before the last from which the number left is told."""
MAX_OUTPUT = 16_000
"""Tokens of one reply, thinking included."""

T = TypeVar("T")
S = TypeVar("S", bound=Arguments)


class SubmissionError(Exception):
    """A submission that cannot be taken, in words for its author."""


class NoSubmissionError(Exception):
    """The conversation ended without a submission that could be taken; says why."""


@dataclass(frozen=True)
class Allowance:
    """Limits of one conversation."""

    turns: int = 30
    """Requests to the model."""
    tokens: int = 600_000
    """Prompt and output tokens of all requests together."""
    dollars: float | None = None
    context: int = 200_000
    """Characters of what tools have answered; then only a submission is taken."""


@dataclass(frozen=True)
class Submit(Generic[S, T]):
    """The tool that ends the conversation."""

    name: str
    help: str
    arguments: type[S]
    take: Callable[[S], T]
    """Function that takes the submission's arguments, or raises SubmissionError."""


@dataclass
class Transcript:
    """Messages of a conversation, its usage, and the reasons why submissions were not taken."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    usage: ModelUsage = field(default_factory=ModelUsage)
    attempts: list[str] = field(default_factory=list)
    """Reasons why submissions were not taken."""


class Conversation:
    """A conversation of one agent about one thing."""

    def __init__(
        self,
        model: Policy,
        tools: Sequence[Tool[Any]],
        *,
        seed: int,
        allowance: Allowance,
        price: Price | None,
        trace: Trace = NO_TRACE,
        reporter: Reporter = SILENT,
        label: str = "asking the agent",
    ) -> None:
        """Prepare a conversation; `reporter` is told under `label` which reply is waited for."""
        self._model = model
        self._tools = tools
        self._seed = seed
        self._allowance = allowance
        self._price = price
        self._trace = trace
        self._reporter = reporter
        self._label = label
        self._began = time.time()
        self._shown = 0
        self.transcript = Transcript()

    def run(self, system: str, opening: str, submit: Submit[S, T]) -> T:
        """Talk until a submission is taken.

        Raises:
            NoSubmissionError: the allowance is used up, ATTEMPTS submissions were wrong, or the model refuses.
            EndpointError: the model's server does not answer. The run ends and can be resumed; the replies that came
                are in its log (`policy.log`), so only the missing turn is asked for again.
            PolicyError: it cannot be used at all.
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
        used, allowed = self.transcript.usage, self._allowance
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
            derive_seed(self._seed, turn),
            tools=(*(tool.schema for tool in self._tools), schema),
            growing=True,
            on_progress=lambda characters: self._report(turn + 1, characters // _CHARACTERS),
        )
        with self._trace.span("LLM", f"turn {turn + 1}", {"messages": request.messages[-4:]}) as span:
            self._report(turn + 1)
            try:
                completion = self._model.sample(request)
            except RejectedRequestError as error:
                raise NoSubmissionError(f"the model's server refused the conversation: {error.what}") from error
            finally:
                self._reporter.waiting(None)
            span.end(_said(completion), completion)
        self.transcript.usage += usage_of(completion, self._price)
        return completion

    def _report(self, turn: int, streamed: int = 0) -> None:
        """Tell which reply is waited for; `streamed` counts the output tokens of it that are there already."""
        tokens = self.transcript.usage.tokens + streamed
        self._reporter.waiting(Wait(self._label, turn, tokens, self._began))

    def _answer(self, call: ToolCall, submit: str) -> str:
        allowed = self._allowance
        if self._shown >= allowed.context:
            return f"error: {self._shown} characters were read, {allowed.context} are allowed: call {submit} now"
        with self._trace.span("TOOL", call.name, {"arguments": call.arguments}) as span:
            text = answer(self._tools, call)
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
