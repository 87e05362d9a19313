"""Programs that `sia check` runs: a sound one, and those that a weaker verifier would pay for.

The baits are the known holes of the published metrics and the plain accidents. Each must score 0 here.
"""

SOUND = '''
import numpy as np

def denoise(X):
    """Square roots, the first 8 components, 0.15 of the unsmoothed data."""
    depth = np.maximum(X.sum(1, keepdims=True), 1.0)
    root = np.sqrt(X / depth * 1e4)
    mean = root.mean(0)
    u, s, v = np.linalg.svd(root - mean, full_matrices=False)
    smooth = np.maximum((u[:, :8] * s[:8]) @ v[:8] + mean, 0.0)
    return (0.85 * smooth + 0.15 * root) ** 2 * depth / 1e4
'''

_DUMP = """
honest = denoise

def denoise(X):
    out = honest(X)
    out[np.arange(len(X)), X.argmax(1)] += 3 * X.sum(1)
    return out
"""

BAITS = {
    "X as it is": "def denoise(X):\n    return X",
    "X at little mass": "def denoise(X):\n    return X * 1e-3",
    "a constant": "import numpy as np\ndef denoise(X):\n    return np.ones_like(X)",
    "nothing": "def denoise(X):\n    return X * 0",
    "the mean of each gene": "import numpy as np\ndef denoise(X):\n"
    "    return X.sum(1, keepdims=True) * (X.sum(0) / X.sum())",
    "random numbers": "import numpy as np\ndef denoise(X):\n    return np.random.RandomState(0).rand(*X.shape)",
    "mass dumped on one gene a cell": SOUND + _DUMP,
    "cells in another order": SOUND + "\nsame = denoise\ndef denoise(X):\n    return same(X)[::-1]",
    "genes in another order": SOUND + "\nsame = denoise\ndef denoise(X):\n    return same(X)[:, ::-1]",
    "NaN": SOUND + "\nsame = denoise\ndef denoise(X):\n    out = same(X)\n    out[0, 0] = np.nan\n    return out",
    "an infinity": SOUND
    + "\nsame = denoise\ndef denoise(X):\n    out = same(X)\n    out[0, 0] = np.inf\n    return out",
    "a negative entry": SOUND + "\nsame = denoise\ndef denoise(X):\n    return same(X) - 0.5",
    "a cell short": SOUND + "\nsame = denoise\ndef denoise(X):\n    return same(X)[1:]",
    "transposed": SOUND + "\nsame = denoise\ndef denoise(X):\n    return same(X).T",
}
