"""The one interface of every policy: the model behind the gateway.

A policy samples; it knows nothing of harnesses, tasks or scores. The randomness of a request is
its `seed` alone, so that a resumed run repeats itself where the model behind the policy allows it.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import Any, Protocol

from sia_core.domain.candidate import Adapter
from sia_core.domain.errors import PolicyError, ServiceError
from sia_core.domain.hashing import digest_json
from sia_core.domain.json_data import Number
from sia_core.domain.rollout import Sampling, ToolCall

Message = Mapping[str, Any]
"""A message of OpenAI's chat completions: `role` (system, user, assistant, tool), `content` (text or
None), for tools `tool_calls` (assistant) and `tool_call_id` (tool), and `blocks` as `Completion.blocks`."""
Tool = Mapping[str, Any]
"""A tool of OpenAI's chat completions: {"type": "function", "function": {name, description, parameters}}."""


Progress = Callable[[int], None]
"""Takes the number of characters of a reply that have come so far, thinking and arguments of tools included; about
four are a token. Called with 0 when an attempt begins, then with each part that comes, in the thread that asks. A reply
that is not streamed gives 0 only; a reply from a log gives nothing. It has to return at once, and what it raises ends
the request."""


class EndpointError(ServiceError):
    """The model did not answer, for reasons that may pass: the rollout is not to blame."""


class RejectedRequestError(PolicyError):
    """The model cannot take this one request, whenever it is sent: too long, or against its rules."""


@dataclass(frozen=True)
class Request:
    """Request of the gateway to a policy."""

    messages: tuple[Message, ...]
    sampling: Sampling
    seed: int
    adapter: Adapter | None = None
    options: tuple[str, ...] | None = None
    """The reply is one of these texts, sampled token by token, each position restricted to tokens
    that lead to an option; a free reply when None."""
    tools: tuple[Tool, ...] = ()
    growing: bool = False
    """True if the next request will begin with these messages, so that a provider's cache is worth its price.
    The flag changes no sample, so it is no part of the key."""
    on_progress: Progress | None = field(default=None, compare=False, repr=False)
    """Listener that is called as the reply comes; no part of the key."""

    @property
    def words(self) -> list[str]:
        """Every text in the request that the asker wrote: of messages, options and tools."""
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


@dataclass(frozen=True)
class Completion:
    """Reply that a policy sampled. Its fields have the shapes of those of `rollout.Turn`."""

    text: str
    prompt: str
    """The rendered prompt, for people to read; never tokenised again."""
    prompt_ids: tuple[int, ...] | None = None
    output_ids: tuple[int, ...] | None = None
    logprobs: tuple[Number, ...] | None = None
    allowed: tuple[tuple[int, ...] | None, ...] | None = None
    finish: str = "stop"
    tool_calls: tuple[ToolCall, ...] = ()
    prompt_tokens: int = 0
    """Prompt tokens as the model's server counts them, cached ones included; 0 if the server counts none."""
    output_tokens: int = 0
    cached_tokens: int = 0
    """Prompt tokens that were read from the provider's cache."""
    cache_write_tokens: int = 0
    """Prompt tokens that were written to the provider's cache."""
    blocks: tuple[Mapping[str, Any], ...] = ()
    """The reply in the provider's own form where it holds more than text and calls, such as thinking: to be sent
    back unchanged as `blocks` of the assistant's message. Empty where the text and the calls are all."""


class Policy(Protocol):
    """A language model that can be sampled, with any of several LoRA adapters."""

    spec: str
    """Spec of the policy as typed: `scripted`, `smollm2`, `local:DIR`, ..."""
    digest: str
    """Content address of the base model and of what else changes its samples."""
    trainable: bool
    """True if the policy takes adapters and records token ids and logprobs."""
    concurrency: int
    """Requests it serves at a time; `sample` is thread-safe up to this many."""

    def sample(self, request: Request) -> Completion:
        """Sample one reply.

        Raises:
            EndpointError: no answer, after bounded retries.
            RejectedRequestError: this request cannot be answered; it is the asker's fault.
            PolicyError: the policy cannot be used at all: a wrong key, an unknown model, a bad adapter.
        """
        ...

    def probe(self, adapter: Adapter | None = None) -> tuple[float, ...]:
        """Logprobs of a frozen probe text: two policies that answer alike have equal probes.

        Empty for a policy that has none to give. Raises as `sample` does, so it also tells
        whether the model can be reached.
        """
        ...


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from chain.from_iterable((key, *_strings(one)) for key, one in value.items())
    elif isinstance(value, list | tuple):
        yield from chain.from_iterable(map(_strings, value))
