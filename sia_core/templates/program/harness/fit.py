import json
from pathlib import Path

import numpy as np


def columns(shape, x, speed=1.0):
    """Return the terms that y is made of, a column each."""
    one = np.ones_like(x)
    if shape == "wave":
        return np.stack([one, np.sin(speed * x), np.cos(speed * x)], axis=1)
    degree = {"constant": 0, "line": 1, "parabola": 2}[shape]
    return np.stack([x**power for power in range(degree + 1)], axis=1)


def fit(shape, x, y):
    """A function of x, by least squares."""
    best = None
    for speed in np.arange(0.4, 3.0, 0.02) if shape == "wave" else [1.0]:
        made = columns(shape, x, speed)
        weights = np.linalg.lstsq(made, y, rcond=None)[0]
        error = ((made @ weights - y) ** 2).mean()
        if best is None or error < best[0]:
            best = error, speed, weights
    return lambda asked: columns(shape, asked, best[1]) @ best[2]


def read(name):
    return np.array(json.loads(Path(name).read_text()), float)


def main(shape):
    points = read("points.json")
    values = fit(shape, points[:, 0], points[:, 1])(read("x.json"))
    Path("y.json").write_text(json.dumps(values.tolist()))


def trial(shape):
    points = read("points.json")
    held = np.arange(len(points)) % 4 == 0
    x, y = points.T
    print(((fit(shape, x[~held], y[~held])(x[held]) - y[held]) ** 2).mean())
