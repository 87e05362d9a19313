"""Draw tokens from the whole vocabulary, or along the trie of the options.

Each request has its own seed. Suffix: V vocabulary.
"""

import random
from collections.abc import Sequence
from typing import NamedTuple

import torch

from sia_core.domain.errors import PolicyError
from sia_core.domain.rollout import Sampling
from sia_core.policy.local.engine import Logits, Row
from sia_core.policy.local.scheduler import Live
from sia_core.policy.trie import Ids, keep, next_tokens


class Sampled(NamedTuple):
    """Drawn token ids, and their logprobs under the sampling distribution."""

    ids: Ids
    logprobs: tuple[float, ...]
    allowed: tuple[Ids, ...] | None = None


class Reply(Live):
    """Samples until an end token or `sampling.max_tokens`."""

    def __init__(self, row: Row, logits_V: torch.Tensor, sampling: Sampling, seed: int, ends: Sequence[int]) -> None:
        self.row, self._sampling = row, sampling
        self._noise = torch.Generator().manual_seed(seed % 2**63)
        self._ends = ends
        self._ids: list[int] = []
        self._logprobs: list[float] = []
        if not self.done:
            self.take(logits_V)

    @property
    def done(self) -> bool:
        """True if the reply has ended, or has reached its maximum length."""
        return len(self._ids) >= self._sampling.max_tokens or (bool(self._ids) and self._ids[-1] in self._ends)

    def take(self, logits_V: torch.Tensor) -> None:
        """Draw the next token."""
        logprob_V = torch.log_softmax(logits_V.double() / self._sampling.temperature, -1)
        token = _draw(logprob_V, self._noise)
        self._ids.append(token)
        self._logprobs.append(float(logprob_V[token]))
        self.row.token = token

    def result(self) -> Sampled:
        """Return the tokens drawn, with their logprobs."""
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
            _check(chances)
            index = _pick(chances.tolist(), rng)
            token, logprob = ids[index], float(chances[index].log())
        left = keep(left, len(output), token)
        allowed.append(ids)
        output.append(token)
        logprobs.append(logprob)
    return Sampled(tuple(output), tuple(logprobs), tuple(allowed))


def _draw(logprob_V: torch.Tensor, noise: torch.Generator) -> int:
    """Draw a token as argmax of logprobs with Gumbel noise (Maddison et al. 2014, section 2).

    Logprobs computed in a batch and alone differ in their last bits. With Gumbel noise, the probability that the
    difference changes the token is about as small as the difference.
    """
    _check(logprob_V)
    waits_V = torch.empty(len(logprob_V), dtype=torch.float64).exponential_(generator=noise)
    return int((logprob_V - waits_V.log().to(logprob_V.device)).argmax())


def _pick(chances: Sequence[float], rng: random.Random) -> int:
    """Draw an index by the inverse of the cumulative distribution."""
    left = rng.random() * sum(chances)
    for index, chance in enumerate(chances):
        left -= chance
        if left < 0:
            return index
    return max(range(len(chances)), key=lambda index: chances[index])


def _check(values: torch.Tensor) -> None:
    if bool(values.isnan().any()):
        raise PolicyError("the model's logits are not numbers", where="sample", hint="its weights are broken")
