"""The one interface of every policy: the model behind the gateway.

A policy only samples: it has no access to harnesses, tasks or scores. The only randomness of a request is its `seed`,
so that a resumed run repeats itself if the policy's model allows it.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from typing import Any, Final, Protocol

from sia_core.domain.candidate import Adapter
from sia_core.domain.errors import PolicyError, ServiceError
from sia_core.domain.hashing import digest_json
from sia_core.domain.json_data import Number
from sia_core.domain.rollout import Sampling, ToolCall

Message = Mapping[str, Any]
"""A message of OpenAI's chat completions: `role` (system, user, assistant, tool), `content` (text or
None), for tools `tool_calls` (assistant) and `tool_call_id` (tool), and `blocks` and `thinking` as those of
`Completion`."""
Tool = Mapping[str, Any]
"""A tool of OpenAI's chat completions: {"type": "function", "function": {name, description, parameters}}."""

_TEMPLATE: Final = 64
"""Tokens that a chat template adds once: a first system message."""
_TOOLS: Final = 512
"""Tokens that a chat template adds where there are tools: how to call them."""
Progress = Callable[[int], None]
"""Receives the number of characters of a reply so far, thinking and tool arguments included (about four a token).
The calling thread calls the function with 0 when an attempt begins, then at each part of a streamed reply, but never
for a reply from a log. The function has to return immediately, and its exceptions end the request."""


class EndpointError(ServiceError):
    """The model did not answer, for reasons that may pass and that the rollout did not cause."""


class RejectedRequestError(PolicyError):
    """The model can never answer this request: too long, or against the model's rules."""


class OverBudgetError(RejectedRequestError):
    """The request's prompt leaves no room for a reply under the request's ceiling."""


@dataclass(frozen=True)
class Request:
    """Request of the gateway to a policy."""

    messages: tuple[Message, ...]
    sampling: Sampling
    seed: int
    adapter: Adapter | None = None
    options: tuple[str, ...] | None = None
    """Texts to choose from, sampled token by token, each position restricted to tokens that lead to an option; None
    for a free reply."""
    tools: tuple[Tool, ...] = ()
    growing: bool = False
    """True if the next request will begin with these messages, so that a provider's cache is worth its price. The
    flag changes no sample, and is not part of the key."""
    on_progress: Progress | None = field(default=None, compare=False, repr=False)
    """Listener for the progress of the reply; not part of the key."""
    ceiling: int | None = None
    """Most tokens of prompt and reply together, as a rollout's budget grants them; not part of the key."""

    @property
    def words(self) -> list[str]:
        """Every text of the caller: in messages, options and tools."""
        return list(_strings([self.messages, self.options, self.tools]))

    @cached_property
    def key(self) -> str:
        """Content address: equal keys ask for the same sample."""
        return digest_json(
            {
                "messages": self.messages,
                "sampling": [self.sampling.temperature, self.sampling.max_tokens],
                "seed": self.seed,
                "adapter": self.adapter.digest if self.adapter else None,
                "options": self.options,
                "tools": self.tools,
            }
        )


def under_ceiling(request: Request, prompt: int, least: int = 1) -> Request:
    """Return the request with a limit of its reply that keeps prompt and reply under the ceiling.

    Args:
        prompt: tokens of the prompt, or at least as many.
        least: fewest tokens of a reply.

    Raises:
        OverBudgetError: there is no room for such a reply.
    """
    if request.ceiling is None:
        return request
    room = request.ceiling - prompt
    if room < least:
        what = f"{request.ceiling:,} tokens are left, and the prompt takes {prompt:,}"
        raise OverBudgetError(what, where="budget", hint="send less, or raise `budget.tokens` of harness.toml")
    sampling = replace(request.sampling, max_tokens=min(request.sampling.max_tokens, room))
    return replace(request, sampling=sampling)


def most_tokens(request: Request) -> int:
    """Count the tokens of a prompt without its tokenizer: at least as many as any tokenizer of bytes makes.

    No token is shorter than a byte, and JSON writes more around a message than a template does.
    """
    written = json.dumps([request.messages, request.tools], ensure_ascii=False, default=str)
    return len(written.encode(errors="replace")) + _TEMPLATE + bool(request.tools) * _TOOLS


@dataclass(frozen=True)
class Completion:
    """Reply that a policy sampled. The fields have the shapes of `rollout.Turn`'s."""

    text: str
    prompt: str
    """Rendered prompt for people, never tokenised again."""
    prompt_ids: tuple[int, ...] | None = None
    output_ids: tuple[int, ...] | None = None
    logprobs: tuple[Number, ...] | None = None
    allowed: tuple[tuple[int, ...] | None, ...] | None = None
    finish: str = "stop"
    tool_calls: tuple[ToolCall, ...] = ()
    prompt_tokens: int = 0
    """Prompt tokens by the server's count, cached ones included; 0 if the server does not count."""
    output_tokens: int = 0
    cached_tokens: int = 0
    """Prompt tokens that were read from the provider's cache."""
    cache_write_tokens: int = 0
    """Prompt tokens that were written to the provider's cache."""
    blocks: tuple[Mapping[str, Any], ...] = ()
    """The reply in the provider's own form, if it holds more than text and calls (such as thinking), to send back
    unchanged as `blocks` of the assistant's message."""
    thinking: Mapping[str, Any] = field(default_factory=dict)
    """Thinking under the names of the server's own fields, to send back as `thinking` of the assistant's message."""


class Policy(Protocol):
    """A language model that can be sampled, with any of several LoRA adapters."""

    spec: str
    """Spec of the policy as typed: `scripted`, `smollm2`, `local:DIR`, ..."""
    digest: str
    """Content address of the base model and of everything else that changes samples."""
    trainable: bool
    """True if the policy takes adapters and records token ids and logprobs."""
    concurrency: int
    """Maximum number of parallel requests, up to which `sample` is thread-safe."""

    def sample(self, request: Request) -> Completion:
        """Sample one reply.

        Raises:
            EndpointError: no answer, after bounded retries.
            RejectedRequestError: this request cannot be answered, by the caller's fault.
            PolicyError: the policy cannot be used at all: an invalid key, model or adapter.
        """

    def probe(self, adapter: Adapter | None = None) -> tuple[float, ...]:
        """Logprobs of a frozen probe text: two equal policies have equal probes.

        Empty for a policy without logprobs. Raises as `sample` does, so a probe also checks that the model can be
        reached.
        """


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from chain.from_iterable((key, *_strings(one)) for key, one in value.items())
    elif isinstance(value, list | tuple):
        yield from chain.from_iterable(map(_strings, value))
