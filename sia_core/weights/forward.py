"""Logprobs of a batch's choices, pass by pass, in packs of contexts that share what they have in common.

Suffixes: N choices of a pass, K contexts that choices were sampled in, V vocabulary.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sia_core.weights.losses import choice_logprobs
from sia_core.weights.packing import Ids, Pack, pack
from sia_core.weights.rows import Choice
from sia_core.weights.value import ValueHead, hidden_states

TOKENS_PER_PASS = 512


@dataclass(frozen=True)
class Pass:
    """What one forward pass read. With gradient, where gradients are on: its graph lives as long as it does."""

    index: list[int]
    """Which of the batch's choices."""
    logprob: torch.Tensor
    """Of the sampled ids, shape (N,), fp32."""
    entropy: torch.Tensor
    """Of the distributions they were sampled from, shape (N,), without gradient."""
    value: torch.Tensor | None
    """With a value head, shape (N,)."""
    tokens: int
    """Ids fed."""


class Forward:
    """Reads choices with a model. Suffix N: choices of a pass."""

    def __init__(
        self, model: Any, temperature: float, *, head: ValueHead | None = None, budget: int | None = None
    ) -> None:
        """Look at what the model can do.

        Args:
            model: a causal language model of transformers, or PEFT's wrapper of one.
            temperature: logits are divided by it.
            head: values are read with it.
            budget: most tokens of a pass; by default what memory allows.
        """
        self._model = model
        self._temperature = temperature
        self._head = head
        self._budget = TOKENS_PER_PASS if budget is None else budget
        self.fallback = _why_not_packed(model.config)
        """Why contexts are read one by one, sharing nothing; None where they are packed."""

    def passes(self, sequences: Sequence[Ids], choices: Sequence[Choice]) -> Iterator[Pass]:
        """Every choice once, in passes of bounded memory: call backward on what came of one before taking the next."""
        choices_of = defaultdict(list)
        for at, choice in enumerate(choices):
            choices_of[choice.sequence].append(at)
        for part in pack(sequences, 0 if self.fallback else self._budget):
            index = [at for sequence in part.paths for at in choices_of[sequence]]
            yield self._read(part, index, [choices[at] for at in index])

    def _read(self, part: Pack, index: list[int], choices: Sequence[Choice]) -> Pass:
        if self._head is None:
            return Pass(index, *self._logprobs(part, choices), None, len(part.ids))
        with hidden_states(self._model) as hidden:
            logprob_N, entropy_N = self._logprobs(part, choices)
        nodes = [part.paths[choice.sequence][choice.position] for choice in choices]
        row = {node: at for at, node in enumerate(sorted(set(nodes)))}
        value_N = self._head(torch.cat(hidden))[self._tensor([row[node] for node in nodes])]
        return Pass(index, logprob_N, entropy_N, value_N, len(part.ids))

    def _logprobs(self, part: Pack, choices: Sequence[Choice]) -> tuple[torch.Tensor, torch.Tensor]:
        nodes = [part.paths[choice.sequence][choice.position] for choice in choices]
        kept = sorted(set(nodes))
        row = {node: at for at, node in enumerate(kept)}
        # A single sequence needs no mask, and only nodes that were sampled from pass the output layer:
        # the vocabulary is the widest one.
        logit_KV = self._model(
            input_ids=self._tensor([part.ids]),
            position_ids=self._tensor([part.depths]),
            attention_mask=part.mask().to(self._model.device) if len(part.paths) > 1 else None,
            logits_to_keep=self._tensor(kept),
            use_cache=False,
        ).logits[0]
        return choice_logprobs(
            logit_KV,
            self._tensor([row[node] for node in nodes]),
            self._tensor([choice.token for choice in choices]),
            [choice.allowed for choice in choices],
            self._temperature,
        )

    def _tensor(self, values: object) -> torch.Tensor:
        return torch.tensor(values, device=self._model.device)


def _why_not_packed(config: Any) -> str | None:
    kinds = set(getattr(config.get_text_config(), "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"} or getattr(config, "use_sliding_window", False):
        return f"not every layer sees the whole context: {', '.join(sorted(kinds))}"
    return None
