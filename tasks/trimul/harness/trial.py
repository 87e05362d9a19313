"""Tries a program at small shapes against the naive one; agent.py appends a call of `report` to this text."""

import json
import time
from typing import Any

import torch
from torch import Tensor

SHAPES = ((1, 9, 16, 8), (2, 33, 24, 16), (1, 96, 64, 64))
REPEATS = 3


def report(code: str, naive: str) -> str:
    """JSON: {"right", "seconds", "said"}."""
    slow, fast = loaded(naive), loaded(code)
    ours = theirs = 0.0
    for number, shape in enumerate(SHAPES):
        wanted, was = timed(slow, inputs(shape, number))
        for _ in range(REPEATS):
            found, took = timed(fast, inputs(shape, number))
        ours, theirs = took, was
        wrong = difference(found, wanted)
        if wrong:
            return json.dumps({"right": False, "seconds": 1e9, "said": f"at shape {shape}: {wrong}"})
    said = f"right; {1e3 * ours:.1f} ms at N = 96, where the naive loop takes {1e3 * theirs:.1f} ms"
    return json.dumps({"right": True, "seconds": ours, "said": said})


def loaded(code: str) -> Any:
    """The program's function."""
    space: dict[str, Any] = {"__name__": "candidate"}
    exec(compile(code, "candidate.py", "exec"), space)  # noqa: S102 - inside the sandbox
    return space["custom_kernel"]


def inputs(shape: tuple[int, int, int, int], seed: int) -> Any:
    """Data as a call brings them."""
    b, n, dim, hidden = shape
    torch.manual_seed(seed)
    w = {f"{name}.weight": torch.randn(hidden, dim) / hidden**0.5 for name in ("left_proj", "right_proj")}
    w |= {f"{name}_gate.weight": torch.randn(hidden, dim) / hidden**0.5 for name in ("left", "right", "out")}
    w |= {"norm.weight": torch.randn(dim), "norm.bias": torch.randn(dim)}
    w |= {"to_out_norm.weight": torch.randn(hidden), "to_out_norm.bias": torch.randn(hidden)}
    w |= {"to_out.weight": torch.randn(dim, hidden) / dim**0.5}
    x = torch.randn(b, n, n, dim)
    return x, (torch.rand(b, n, n) < 0.5).float(), w, {"dim": dim, "hidden_dim": hidden}


def timed(kernel: Any, data: Any) -> tuple[Tensor, float]:
    """Result and CPU seconds."""
    began = time.process_time()
    return kernel(data), time.process_time() - began


def difference(found: Any, wanted: Tensor) -> str:
    """What is wrong; empty when nothing is."""
    if type(found) is not torch.Tensor or found.shape != wanted.shape or found.dtype != torch.float32:
        return f"the result is not a float32 tensor of shape {list(wanted.shape)}"
    if not found.is_contiguous():
        return "the result is not contiguous"
    error = float((found - wanted).square().mean().sqrt() / wanted.square().mean().sqrt())
    return "" if error < 1e-5 else f"the relative error is {error:.2g}, at most 1e-5 is allowed"
