"""The one interface of every policy: the model behind the gateway.

A policy samples; it knows nothing of harnesses, tasks or scores. Same arguments, same
completion: randomness comes from `seed` alone, so that a resumed run repeats itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from sia_core.candidate import Adapter
from sia_core.rollout import Sampling

Message = Mapping[str, str]
"""{"role": "system" | "user" | "assistant", "content": text}"""


@dataclass(frozen=True)
class Completion:
    """What a policy sampled. Field shapes as in `rollout.Turn`."""

    text: str
    prompt: str
    """The rendered prompt, for people to read; never tokenised again."""
    prompt_ids: tuple[int, ...] | None = None
    output_ids: tuple[int, ...] | None = None
    logprobs: tuple[float, ...] | None = None
    allowed: tuple[tuple[int, ...] | None, ...] | None = None
    finish: str = "stop"


class Policy(Protocol):
    """A language model that can be sampled, with any of several LoRA adapters."""

    spec: str
    """As typed: `scripted`, `smollm2`, `local:DIR`, ..."""
    digest: str
    """Content address of the base model and of what else changes its samples."""
    trainable: bool
    """Whether it takes adapters and records token ids and logprobs."""

    def chat(
        self, messages: Sequence[Message], sampling: Sampling, seed: int, adapter: Adapter | None = None
    ) -> Completion:
        """Sample a reply."""
        ...

    def choose(
        self,
        messages: Sequence[Message],
        options: Sequence[str],
        sampling: Sampling,
        seed: int,
        adapter: Adapter | None = None,
    ) -> Completion:
        """Sample one of `options`, token by token, each position restricted to tokens that lead to an option.

        Raises:
            PolicyError: fewer than one option, or two that are the same.
        """
        ...

    def probe(self, adapter: Adapter | None = None) -> tuple[float, ...]:
        """Logprobs of a frozen probe text: two policies that answer alike have equal probes."""
        ...
