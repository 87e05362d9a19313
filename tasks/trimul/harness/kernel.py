"""A whole `custom_kernel(data)` program. agent.py hands it in as text, with its settings appended.

FORM is how the contraction o[i,j,d] = sum_k left[i,k,d] right[j,k,d] is computed, PROJECT whether the four masked
projections are four products or one that comes out channels first, GATE whether the gating makes new tensors or
works in place, DTYPE what the contraction is computed in.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import layer_norm

FORM = "rows"
PROJECT = "apart"
GATE = "new"
DTYPE = "float32"
THREADS = 1
CHUNK = 16


def custom_kernel(data: tuple[Tensor, Tensor, dict[str, Tensor], dict[str, Any]]) -> Tensor:
    """x (B, N, N, dim), mask (B, N, N), weights by name, sizes; the result is (B, N, N, dim)."""
    x, mask, w, config = data
    torch.set_num_threads(THREADS)
    x = layer_norm(x, (config["dim"],), w["norm.weight"], w["norm.bias"])
    sides = together if PROJECT == "together" else apart
    left, right = (side.to(getattr(torch, DTYPE)) for side in sides(x, mask, w))
    out = contracted(left, right).to(torch.float32).permute(0, 2, 3, 1)
    if FORM in ("rows", "chunk"):
        out = out.contiguous()
    out = layer_norm(out, (config["hidden_dim"],), w["to_out_norm.weight"], w["to_out_norm.bias"])
    gate = x @ w["out_gate.weight"].T
    out = out.mul_(gate.sigmoid_()) if GATE == "place" else out * torch.sigmoid(gate)
    return (out @ w["to_out.weight"].T).contiguous()


def apart(x: Tensor, mask: Tensor, w: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Left and right, (B, hidden, N, N), each from two products."""
    left, right = (
        gated(x @ w[f"{side}_proj.weight"].T, x @ w[f"{side}_gate.weight"].T, mask[..., None])
        for side in ("left", "right")
    )
    return left.permute(0, 3, 1, 2), right.permute(0, 3, 1, 2)


def together(x: Tensor, mask: Tensor, w: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The same from one product."""
    names = ("left_proj", "left_gate", "right_proj", "right_gate")
    stacked = torch.cat([w[f"{name}.weight"] for name in names])
    b, n = mask.shape[:2]
    parts = torch.matmul(stacked, x.reshape(b, n * n, -1).transpose(1, 2)).view(b, 4, -1, n, n)
    return gated(parts[:, 0], parts[:, 1], mask[:, None]), gated(parts[:, 2], parts[:, 3], mask[:, None])


def gated(values: Tensor, gate: Tensor, mask: Tensor) -> Tensor:
    """values * sigmoid(gate) * mask."""
    if GATE == "place":
        return values.mul_(gate.sigmoid_()).mul_(mask)
    return values * torch.sigmoid(gate) * mask


def contracted(left: Tensor, right: Tensor) -> Tensor:
    """o (B, hidden, N, N) of left and right in the same order."""
    if FORM == "batched":
        return torch.matmul(left.contiguous(), right.contiguous().transpose(-1, -2))
    if FORM == "einsum":
        return torch.einsum("bdik,bdjk->bdij", left, right)
    left, right = left.permute(0, 2, 3, 1).contiguous(), right.permute(0, 2, 3, 1).contiguous()
    out = torch.empty_like(left)
    if FORM == "rows":
        for i in range(left.shape[1]):
            out[:, i] = (left[:, i, None] * right).sum(2)
    else:
        for i in range(0, left.shape[1], CHUNK):
            out[:, i : i + CHUNK] = torch.einsum("bikd,bjkd->bijd", left[:, i : i + CHUNK], right)
    return out.permute(0, 3, 1, 2)
