"""Triangle multiplicative update in eager PyTorch with one einsum: the seed on a GPU. Text for the sandbox."""

from typing import Any

import torch
from torch import Tensor


def custom_kernel(data: tuple[Tensor, Tensor, dict[str, Tensor], dict[str, Any]]) -> Tensor:
    """x (B, N, N, dim), mask (B, N, N), weights by name, sizes; the result is (B, N, N, dim)."""
    x, mask, w, config = data
    x = torch.nn.functional.layer_norm(x, (config["dim"],), w["norm.weight"], w["norm.bias"])
    left = (x @ w["left_proj.weight"].T) * mask[..., None] * torch.sigmoid(x @ w["left_gate.weight"].T)
    right = (x @ w["right_proj.weight"].T) * mask[..., None] * torch.sigmoid(x @ w["right_gate.weight"].T)
    gate = torch.sigmoid(x @ w["out_gate.weight"].T)
    out = torch.einsum("bikd,bjkd->bijd", left, right)
    norm = (w["to_out_norm.weight"], w["to_out_norm.bias"])
    out = torch.nn.functional.layer_norm(out, (config["hidden_dim"],), *norm)
    return (out * gate) @ w["to_out.weight"].T
