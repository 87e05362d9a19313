"""Judges one program without the hidden part: splits X_train once more and applies the task's own rules.

agent.py appends a call of `main` with the program's text and runs this where X_train.npy lies.
"""

import json
import time

import numpy as np


def main(source):
    """Print what was found as the last line."""
    counts = np.load("X_train.npy", allow_pickle=False)
    train = np.random.RandomState(0).binomial(counts, 0.9)
    seen = train.sum(axis=0) > 0
    train, test = train[:, seen].astype(float), (counts - train)[:, seen]
    started = time.perf_counter()
    space = {"__name__": "candidate"}
    exec(compile(source, "candidate.py", "exec"), space)  # noqa: S102 - in a sandbox that holds nothing else
    out = space["denoise"](train.copy())
    found = {"seconds": time.perf_counter() - started}
    fault = shape_fault(out, train)
    if fault:
        print(json.dumps({"fault": fault}))
        return
    out, magic = rescaled(np.asarray(out, dtype=float), train), rescaled(walk(train), train)
    none = error(train, test)
    # The scale of the task's Poisson figure: 0 is X itself, 1 the hidden part.
    ends = loss(train, test), loss(np.maximum(test, 0), test)
    poisson, wanted = ((ends[0] - loss(one, test)) / (ends[0] - ends[1]) for one in (out, magic))
    least, most = wanted - 0.05 * abs(wanted), 2.0 * share(train)
    found |= {"error": error(out, test), "score": 1 - error(out, test) / none, "poisson": poisson, "least": least}
    found |= {"magic_score": 1 - error(magic, test) / none, "share": share(out), "most": most}
    if poisson < least:
        found["fault"] = "the Poisson rule is broken"
    elif found["share"] > most:
        found["fault"] = "the mass rule is broken"
    print("\n" + json.dumps(found))


def shape_fault(out, train):
    """Why the result cannot be scored, or nothing."""
    out = np.asarray(out)
    if out.shape != train.shape or out.dtype.kind not in "fiu":
        return f"the result has shape {out.shape} and type {out.dtype}, not {train.shape} and float64"
    if not np.isfinite(out).all():
        return f"{int((~np.isfinite(out)).sum())} entries are NaN or infinite"
    if (out < 0).any():
        return f"{int((out < 0).sum())} entries are negative"
    if (out.sum(axis=1) <= 0).any():
        return f"{int((out.sum(axis=1) <= 0).sum())} cells were left without any counts"
    return ""


def rescaled(data, train):
    """Each cell with its depth in train."""
    return data * (train.sum(axis=1, keepdims=True) / data.sum(axis=1, keepdims=True))


def log_normalised(data):
    """log(1 + counts per 10,000)."""
    return np.log1p(data * (1e4 / np.maximum(data.sum(axis=1, keepdims=True), 1e-9)))


def error(data, test):
    """Mean squared log error."""
    return float(np.mean((log_normalised(data) - log_normalised(test)) ** 2))


def loss(data, test):
    """Poisson negative log likelihood of test, up to a constant."""
    predicted = data * (test.sum() / data.sum())
    return float(np.mean(predicted - test * np.log(predicted + 1e-6)))


def share(data):
    """Mean share of a cell's mass on its largest gene."""
    return float(np.mean(data.max(axis=1) / data.sum(axis=1)))


def walk(train):
    """MAGIC: three steps over a graph of neighbouring cells, on square roots."""
    depth = train.sum(axis=1, keepdims=True)
    root = np.sqrt(train * (1e4 / depth))
    left, values, _ = np.linalg.svd(root - root.mean(axis=0), full_matrices=False)
    points = (left * values)[:, :100]
    squares = np.sum(points * points, axis=1)
    apart = np.sqrt(np.maximum(squares[:, None] + squares - 2.0 * points @ points.T, 0.0))
    np.fill_diagonal(apart, 0.0)
    ranked = np.sort(apart, axis=1)
    kernel = np.exp(-apart / np.maximum(ranked[:, [5]], 1e-12)) * (apart <= ranked[:, [15]])
    kernel = kernel + kernel.T
    return (np.linalg.matrix_power(kernel / kernel.sum(axis=1, keepdims=True), 3) @ root) ** 2 * depth / 1e4
