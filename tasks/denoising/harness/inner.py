"""Judges one program without the test part: splits X_train once more and applies the task's own rules.

agent.py appends this text and a call of `report` to a program and runs it where X_train.npy lies.
"""

import json
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]


def report(denoise: Callable[[Matrix], Matrix], magic: Callable[[Matrix], Matrix]) -> None:
    """Print {"error", "valid"}: mean squared log error on the molecules held back, and whether the rules hold."""
    X = np.load("X_train.npy", allow_pickle=False)
    train = np.random.RandomState(0).binomial(X, 0.9)
    test, train = X - train, train.astype(np.float64)
    found = rescaled(denoise(train), train)
    least = loss(rescaled(magic(train), train), test) - loss(train, test)
    fits = loss(found, test) - loss(train, test) <= 0.95 * least
    valid = fits and share(found) <= 2.0 * share(train)
    error = float(np.mean((log_normalised(found) - log_normalised(test)) ** 2))
    print(json.dumps({"error": error, "valid": bool(valid)}))


def rescaled(data: Matrix, train: Matrix) -> Matrix:
    """Each cell with its depth in train."""
    return data * (train.sum(axis=1, keepdims=True) / data.sum(axis=1, keepdims=True))


def log_normalised(data: Matrix) -> Matrix:
    """log(1 + counts per 10,000)."""
    return np.log1p(data * (1e4 / np.maximum(data.sum(axis=1, keepdims=True), 1e-9)))


def loss(data: Matrix, test: Matrix) -> float:
    """Poisson negative log likelihood of test, up to a constant."""
    predicted = data * (test.sum() / data.sum())
    return float(np.mean(predicted - test * np.log(predicted + 1e-6)))


def share(data: Matrix) -> float:
    """Mean share of a cell's mass on its largest gene."""
    return float(np.mean(data.max(axis=1) / data.sum(axis=1)))
