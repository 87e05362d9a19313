"""A whole `denoise(X)` program. agent.py hands it in as text, with the five settings appended.

Cells are scaled to one depth, transformed, smoothed by METHOD, transformed back and given their own depth
again. RAW keeps a share of the unsmoothed data; EXPECTED moves towards the expected log count of the far
shallower test part instead of the expected count.
"""

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]

METHOD = "copy"
TRANSFORM = "raw"
SIZE = 1
RAW = 0.0
EXPECTED = 0.0

DEPTH = 1e4
TEST_SHARE = 1.0 / 9.0
"""Molecules of the test part for each one of X."""


def denoise(X: Matrix) -> Matrix:
    """Denoised counts, cells x genes, each cell with the depth it has in X."""
    if METHOD == "copy":
        return X
    smooth = match(smoothed(X, METHOD, TRANSFORM, SIZE, RAW), X)
    if EXPECTED:
        smooth = (1.0 - EXPECTED) * smooth + EXPECTED * match(expected_log(smooth), X)
    return smooth


def smoothed(X: Matrix, method: str, transform: str, size: int, raw: float) -> Matrix:
    """X through transform, method and back; not negative."""
    data = forth(X * (DEPTH / depth(X)), transform)
    methods = {"mean": mean, "neighbours": neighbours, "svd": low_rank, "diffusion": diffusion}
    return back((1.0 - raw) * methods[method](data, size) + raw * data, transform)


def forth(data: Matrix, transform: str) -> Matrix:
    """Tame the large counts."""
    return {"raw": np.positive, "log": np.log1p, "sqrt": np.sqrt}[transform](data)


def back(data: Matrix, transform: str) -> Matrix:
    """Undo `forth`; what smoothing made negative becomes 0."""
    return {"raw": np.positive, "log": np.expm1, "sqrt": np.square}[transform](np.maximum(data, 0.0))


def depth(X: Matrix) -> Matrix:
    """Total of each cell, as a column."""
    return np.maximum(X.sum(axis=1, keepdims=True), 1e-9)


def match(data: Matrix, X: Matrix) -> Matrix:
    """Rescale each cell to its depth in X."""
    return data * (depth(X) / depth(data))


def mean(data: Matrix, _size: int) -> Matrix:
    """Every cell the same: the mean of each gene."""
    return np.repeat(data.mean(axis=0, keepdims=True), len(data), axis=0)


def low_rank(data: Matrix, rank: int) -> Matrix:
    """The first `rank` principal components."""
    center = data.mean(axis=0)
    u, s, v = np.linalg.svd(data - center, full_matrices=False)
    return (u[:, :rank] * s[:rank]) @ v[:rank] + center


def neighbours(data: Matrix, number: int) -> Matrix:
    """Mean over each cell and its nearest `number` others."""
    nearest = np.argsort(distances(data, 20), axis=1, kind="stable")[:, : number + 1]
    weights = np.zeros((len(data), len(data)))
    np.put_along_axis(weights, nearest, 1.0 / nearest.shape[1], axis=1)
    return weights @ data


def diffusion(data: Matrix, steps: int) -> Matrix:
    """Random walk over a graph of near cells, as MAGIC does."""
    apart = distances(data, 100)
    ranked = np.sort(apart, axis=1)
    kernel = np.exp(-apart / np.maximum(ranked[:, [5]], 1e-12)) * (apart <= ranked[:, [15]])
    kernel = kernel + kernel.T
    return np.linalg.matrix_power(kernel / kernel.sum(axis=1, keepdims=True), steps) @ data


def distances(data: Matrix, components: int) -> Matrix:
    """Between cells, in the space of the first principal components."""
    u, s, _ = np.linalg.svd(data - data.mean(axis=0), full_matrices=False)
    points = (u * s)[:, :components]
    squares = np.sum(points * points, axis=1)
    apart = np.sqrt(np.maximum(squares[:, None] + squares - 2.0 * points @ points.T, 0.0))
    np.fill_diagonal(apart, 0.0)
    return apart


def expected_log(counts: Matrix, terms: int = 30) -> Matrix:
    """exp(E[log(1 + normalised count)]) - 1 when the test part is a Poisson sample of `counts`."""
    rate = counts * TEST_SHARE
    unit = DEPTH / np.maximum(depth(rate), 1.0)
    total, chance = np.zeros_like(rate), np.exp(-rate)
    for count in range(1, terms):
        chance = chance * (rate / count)
        total += chance * np.log1p(count * unit)
    return np.expm1(np.where(rate > terms / 3, np.log1p(rate * unit), total))
