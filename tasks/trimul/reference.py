"""The operation from its formula: AlphaFold 3, Algorithm 12 (outgoing edges), in numpy.

    x = LN(x); left = (x Wl^T) * mask * sigmoid(x Wlg^T); right likewise; gate = sigmoid(x Wog^T)
    o[i,j,d] = sum_k left[i,k,d] right[j,k,d];  y = (LN(o) * gate) Wo^T

Checks at small shapes take it in float64, timed calls in float32, whose own error (about 1e-7) is far below any
budget. Either way results are compared in float64.
"""

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.trimul.inputs import MASK, Inputs, X, make
from tasks.trimul.shapes import Call

Array = npt.NDArray[Any]
EPS = 1e-5
_KEPT = 12


@lru_cache(maxsize=_KEPT)
def expected(call: Call) -> Array:
    """The result of a call, (B, N, N, dim); the last few are kept, for rollouts of one problem come together."""
    return trimul(make(call), np.float32 if call.timed else np.float64)


def trimul(inputs: Inputs, kind: type[np.floating[Any]]) -> Array:
    """The result in arithmetic of `kind`."""
    w = {name: array.astype(kind, copy=False) for name, array in inputs.arrays.items()}
    x = normalised(w[X], w["norm.weight"], w["norm.bias"])
    mask = w[MASK][..., None]
    left = _sigmoid(x @ w["left_gate.weight"].T) * (x @ w["left_proj.weight"].T) * mask
    right = _sigmoid(x @ w["right_gate.weight"].T) * (x @ w["right_proj.weight"].T) * mask
    # channels first: one matrix product for every batch and channel
    product = np.matmul(left.transpose(0, 3, 1, 2), right.transpose(0, 3, 2, 1)).transpose(0, 2, 3, 1)
    o = normalised(product, w["to_out_norm.weight"], w["to_out_norm.bias"])
    result: Array = (o * _sigmoid(x @ w["out_gate.weight"].T)) @ w["to_out.weight"].T
    return result


def normalised(x: Array, weight: Array, bias: Array) -> Array:
    """Layer norm over the last axis, with the variance as the mean square."""
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = np.square(centred).mean(axis=-1, keepdims=True)
    result: Array = centred / np.sqrt(variance + x.dtype.type(EPS)) * weight + bias
    return result


def _sigmoid(x: Array) -> Array:
    with np.errstate(over="ignore"):
        result: Array = 1 / (1 + np.exp(-x))
    return result
