"""A value function for PPO: one linear layer on the input of the model's output layer.

The layer starts at 0, so that a first update's advantages are plain returns. Its gradient ends at the hidden
state: the policy is trained by its own loss alone.
Suffixes: K contexts, D hidden size.
"""

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
