"""The triangle multiplicative update as the formula reads, one row of the result after the other.

The seed on a CPU, and what speed-ups are counted from. Text for the sandbox: never imported by the verifier.
"""

from typing import Any

import torch
from torch import Tensor


def custom_kernel(data: tuple[Tensor, Tensor, dict[str, Tensor], dict[str, Any]]) -> Tensor:
    """x (B, N, N, dim), mask (B, N, N), weights by name, sizes; the result is (B, N, N, dim)."""
    x, mask, w, config = data
    dim, hidden, n = config["dim"], config["hidden_dim"], x.shape[1]
    x = torch.nn.functional.layer_norm(x, (dim,), w["norm.weight"], w["norm.bias"])
    left = (x @ w["left_proj.weight"].T) * mask[..., None] * torch.sigmoid(x @ w["left_gate.weight"].T)
    right = (x @ w["right_proj.weight"].T) * mask[..., None] * torch.sigmoid(x @ w["right_gate.weight"].T)
    gate = torch.sigmoid(x @ w["out_gate.weight"].T)
    out = torch.empty_like(left)
    for i in range(n):
        out[:, i] = (left[:, i, None] * right).sum(2)
    out = torch.nn.functional.layer_norm(out, (hidden,), w["to_out_norm.weight"], w["to_out_norm.bias"])
    return (out * gate) @ w["to_out.weight"].T
