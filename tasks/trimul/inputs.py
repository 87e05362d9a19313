"""Data of one call, and how they lie in the memory shared with the candidate.

Scaled as in the competition: x normal, or Cauchy of scale 2; each projection is normal over the root of what
its rows number. A real mask is 0 or 1 with even odds.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tasks.trimul.shapes import Call, Shape

Floats = npt.NDArray[np.float32]

X, MASK, OUT = "x", "mask", "out"
_ALIGN = 64
"""Floats: every array begins on a cache line of its own."""


@dataclass(frozen=True)
class Inputs:
    """Arrays by name: x (B, N, N, dim), mask (B, N, N), and the weights under the competition's names."""

    shape: Shape
    arrays: dict[str, Floats]


def parts(shape: Shape) -> dict[str, tuple[int, ...]]:
    """Shape of every array, in the order in which they lie in memory; the result comes last."""
    b, n, dim, hidden = shape.batch, shape.n, shape.dim, shape.hidden
    return {
        X: (b, n, n, dim),
        MASK: (b, n, n),
        "norm.weight": (dim,),
        "norm.bias": (dim,),
        "left_proj.weight": (hidden, dim),
        "right_proj.weight": (hidden, dim),
        "left_gate.weight": (hidden, dim),
        "right_gate.weight": (hidden, dim),
        "out_gate.weight": (hidden, dim),
        "to_out_norm.weight": (hidden,),
        "to_out_norm.bias": (hidden,),
        "to_out.weight": (dim, hidden),
        OUT: (b, n, n, dim),
    }


def layout(shape: Shape) -> dict[str, tuple[int, tuple[int, ...]]]:
    """Where each array begins, in floats, and its shape."""
    found, start = {}, 0
    for name, size in parts(shape).items():
        found[name] = (start, size)
        start += -(-math.prod(size) // _ALIGN) * _ALIGN
    return found


def floats(shape: Shape) -> int:
    """Room that one call needs, in floats."""
    start, size = layout(shape)[OUT]
    return start + math.prod(size)


def make(call: Call) -> Inputs:
    """The data of a call; the same for the same call."""
    random = np.random.default_rng(call.seed)
    shape = call.case.shape
    sizes = parts(shape)
    arrays = {name: random.standard_normal(sizes[name], dtype=np.float32) for name in list(sizes)[2:-1]}
    for name, array in arrays.items():
        if array.ndim == 2:
            root = np.float32(math.sqrt(shape.dim if name == "to_out.weight" else shape.hidden))
            np.divide(array, root, out=array)
    x = _cauchy(random, sizes[X]) if call.case.cauchy else random.standard_normal(sizes[X], dtype=np.float32)
    mask = random.random(sizes[MASK], dtype=np.float32) < 0.5 if call.masked else np.ones(sizes[MASK], bool)
    return Inputs(shape, {X: x, MASK: mask.astype(np.float32), **arrays})


def _cauchy(random: np.random.Generator, size: tuple[int, ...]) -> Floats:
    values: Floats = random.random(size, dtype=np.float32)
    np.subtract(values, np.float32(0.5), out=values)
    np.multiply(values, np.float32(np.pi * (1 - 1e-6)), out=values)  # the tangent's poles are no floats
    np.tan(values, out=values)
    return np.multiply(values, np.float32(2.0), out=values)
