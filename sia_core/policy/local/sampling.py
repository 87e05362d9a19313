"""Drawing tokens: from the whole vocabulary, or along the trie of the options.

Each request draws from its own seed. Suffix: V vocabulary.
"""

import random
from collections.abc import Sequence
from math import log
from typing import NamedTuple

import torch

from sia_core.errors import PolicyError
from sia_core.policy.local.engine import Logits, Row
from sia_core.policy.local.scheduler import Live
from sia_core.policy.trie import Ids, keep, next_tokens
from sia_core.rollout import Sampling


class Sampled(NamedTuple):
    """Token ids as they were drawn, and their logprobs under the distribution drawn from."""

    ids: Ids
    logprobs: tuple[float, ...]
    allowed: tuple[Ids, ...] | None = None


class Reply(Live):
    """Samples until an end token or `sampling.max_tokens`."""

    def __init__(self, row: Row, logits_V: torch.Tensor, sampling: Sampling, seed: int, ends: Sequence[int]) -> None:
        self.row = row
        self._sampling = sampling
        self._rng = random.Random(seed)
        self._ends = ends
        self._ids: list[int] = []
        self._logprobs: list[float] = []
        if not self.done:
            self.take(logits_V)

    @property
    def done(self) -> bool:
        """Whether it ended, or is as long as it may be."""
        return len(self._ids) >= self._sampling.max_tokens or (bool(self._ids) and self._ids[-1] in self._ends)

    def take(self, logits_V: torch.Tensor) -> None:
        """Draw the next token."""
        logprob_V = torch.log_softmax(logits_V.double() / self._sampling.temperature, -1)
        token = _draw(logprob_V.exp(), self._rng)
        self._ids.append(token)
        self._logprobs.append(float(logprob_V[token]))
        self.row.token = token

    def result(self) -> Sampled:
        """What was drawn."""
        return Sampled(tuple(self._ids), tuple(self._logprobs))


def walk(tokens: Sequence[Ids], logits: Logits, temperature: float, seed: int) -> Sampled:
    """Walk the trie of the options' tokens, drawing at each branch from the softmax over its children."""
    rng = random.Random(seed)
    output: list[int] = []
    logprobs: list[float] = []
    allowed: list[Ids] = []
    left: Sequence[Ids] = tokens
    while len(left) > 1 or len(output) < len(left[0]):
        ids = next_tokens(left, len(output))
        token, logprob = ids[0], 0.0
        if len(ids) > 1:
            logit = torch.tensor(logits[tuple(output)], dtype=torch.float64)
            chances = torch.softmax(logit / temperature, -1)
            index = _draw(chances, rng)
            token, logprob = ids[index], log(chances[index])
        left = keep(left, len(output), token)
        allowed.append(ids)
        output.append(token)
        logprobs.append(logprob)
    return Sampled(tuple(output), tuple(logprobs), tuple(allowed))


def _draw(chances: torch.Tensor, rng: random.Random) -> int:
    """Inverse of the cumulative distribution at one uniform number."""
    total = chances.cumsum(-1)
    if not bool(total[-1] > 0):
        raise PolicyError("the model's logits are not numbers", where="sample", hint="its weights are broken")
    index = int(torch.searchsorted(total, total[-1] * rng.random(), right=True))
    # Rounding may leave the number at the very end.
    return index if index < len(chances) else int(chances.argmax())
