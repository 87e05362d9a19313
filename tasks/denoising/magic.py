"""MAGIC (van Dijk et al. 2018), the exact solver with its published defaults, over numpy alone.

Cells are normalised, square-rooted, reduced by PCA; a kernel exp(-distance / bandwidth) to the nearest
3 x `knn` cells, with each cell's own bandwidth (the distance to its `knn`-th neighbour), is made symmetric
and turned into a transition matrix, whose `steps`-th power smooths the data. This is the reference that
the Poisson rule measures against; it is deterministic (an exact SVD in place of a randomised one).
"""

import numpy as np

from tasks.denoising.metrics import TARGET, Counts, Matrix

_LEAST_WEIGHT = 1e-4


def magic(train: Counts, *, knn: int = 5, decay: float = 1.0, steps: int = 3, components: int = 100) -> Matrix:
    """Denoised counts on train's scale, cells x genes."""
    totals = np.maximum(train.sum(axis=1, keepdims=True, dtype=np.float64), 1.0)
    root = np.sqrt(train * (TARGET / totals))
    smoother = _transitions(_distances(_principal(root, components)), knn, decay)
    smooth: Matrix = np.linalg.matrix_power(smoother, steps) @ root
    rescaled: Matrix = smooth * smooth * (totals / TARGET)
    return rescaled


def _principal(data: Matrix, components: int) -> Matrix:
    """Coordinates on the first principal components; all of the data where there are no more."""
    if components >= min(data.shape):
        return data
    left, values, _ = np.linalg.svd(data - data.mean(axis=0), full_matrices=False)
    coordinates: Matrix = left[:, :components] * values[:components]
    return coordinates


def _distances(points: Matrix) -> Matrix:
    squares = np.sum(points * points, axis=1)
    distances: Matrix = np.sqrt(np.maximum(squares[:, None] + squares[None, :] - 2.0 * points @ points.T, 0.0))
    np.fill_diagonal(distances, 0.0)
    return distances


def _transitions(distances: Matrix, knn: int, decay: float) -> Matrix:
    """Row-stochastic matrix over cells; a cell counts as its own first neighbour."""
    cells = len(distances)
    nearest = np.argsort(distances, axis=1, kind="stable")[:, : min(3 * knn + 1, cells)]
    near = np.take_along_axis(distances, nearest, axis=1)
    bandwidth = np.maximum(near[:, [min(knn, cells - 1)]], np.finfo(float).eps)
    weights = np.exp(-((near / bandwidth) ** decay))
    kernel = np.zeros_like(distances)
    np.put_along_axis(kernel, nearest, np.where(weights < _LEAST_WEIGHT, 0.0, weights), axis=1)
    kernel = (kernel + kernel.T) / 2.0
    transitions: Matrix = kernel / kernel.sum(axis=1, keepdims=True)
    return transitions
