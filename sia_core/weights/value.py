"""A value function for PPO: one linear layer on the input of the model's output layer.

The layer starts at 0, so that a first update's advantages are plain returns. Its gradient ends at the hidden
state: the policy is trained by its own loss alone.
Suffixes: K contexts, D hidden size.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class ValueHead(torch.nn.Module):
    """Value of the state at a context."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(size, 1)
        torch.nn.init.zeros_(self.layer.weight)
        torch.nn.init.zeros_(self.layer.bias)

    def forward(self, hidden_KD: torch.Tensor) -> torch.Tensor:
        """Map hidden states of shape (K, D) to values of shape (K,)."""
        value_K: torch.Tensor = self.layer(hidden_KD.detach().float())[:, 0]
        return value_K


@contextmanager
def hidden_states(model: Any) -> Iterator[list[torch.Tensor]]:
    """Collect the input of the output layer in every forward pass, each of shape (K, D).

    With `logits_to_keep`, only the kept positions are collected, in their order.
    """
    found: list[torch.Tensor] = []

    def keep(_: object, inputs: tuple[torch.Tensor, ...]) -> None:
        found.append(inputs[0].detach().flatten(0, -2))

    hook = model.get_output_embeddings().register_forward_pre_hook(keep)
    try:
        yield found
    finally:
        hook.remove()
