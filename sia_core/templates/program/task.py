"""Curves to be fitted by a program: the program sees some points, and is judged on others.

The program is code that a model wrote: it runs in the sandbox (`lab.run`) only, and its output is checked. The values
of the hidden points never enter the sandbox.
"""

import json
import random
from collections.abc import Callable
from math import sin
from typing import Any

from sia_core import Lab, Limits, Problem, Split, Verdict

COUNTS = {"train": 24, "gate": 48, "test": 32}
SHAPES = ("line", "parabola", "wave")
POINTS, HIDDEN = 24, 24
NOISE = 0.3
LONGEST = 20_000
LIMITS = Limits(wall_s=10.0, cpu_s=10.0, memory_mb=512, disk_mb=4)


def load(split: Split) -> list[Problem]:
    """Problems of one split, always the same: each problem has its own seed."""
    return [make(f"{split}-{number}", split, SHAPES[number % len(SHAPES)]) for number in range(COUNTS[split])]


def make(name: str, split: Split, shape: str) -> Problem:
    """Make one problem. A harness sees `public` and `files`; `private` stays here."""
    rng = random.Random(f"my-task/{name}")
    curve, formula = draw(rng, shape)
    xs = [round(rng.uniform(0, 10), 3) for _ in range(POINTS + HIDDEN)]
    points = [[x, round(curve(x) + rng.gauss(0, NOISE), 3)] for x in xs[:POINTS]]
    hidden = [[x, curve(x)] for x in xs[POINTS:]]
    files = {"points.json": json.dumps(points).encode()}
    return Problem(name, split, {"points": points}, files, private={"formula": formula, "hidden": hidden})


def draw(rng: random.Random, shape: str) -> tuple[Callable[[float], float], str]:
    """Draw a curve; return it as a function and as Python source."""
    a, b = rng.uniform(-2, 2), rng.choice([-1, 1]) * rng.uniform(0.5, 2)
    if shape == "line":
        return lambda x: a + b * x, f"{a} + {b} * x"
    if shape == "parabola":
        c = rng.uniform(3, 7)
        return lambda x: a + b * (x - c) ** 2, f"{a} + {b} * (x - {c}) ** 2"
    c, d = rng.uniform(0.8, 2), rng.uniform(0, 3)
    return lambda x: a + 2 * b * sin(c * x + d), f"{a} + 2 * {b} * sin({c} * x + {d})"


def verify(problem: Problem, answer: Any, lab: Lab) -> Verdict:
    """Run the program on the points, and compare its predictions with the hidden ones."""
    code = answer.get("code") if isinstance(answer, dict) else None
    if not isinstance(code, str) or not 0 < len(code) <= LONGEST:
        return invalid(f'the answer has to be {{"code": text of 1 to {LONGEST} characters}}')
    hidden = problem.private["hidden"]
    asked = json.dumps([x for x, _ in hidden]).encode()
    files = {**problem.files, "main.py": code.encode(errors="replace"), "x.json": asked}
    result = lab.run(files, LIMITS, collect=["y.json"])
    if result.status != "ok":
        return invalid(f"the program ended as {result.status}: {result.reason}")
    found = read(result.files.get("y.json"), len(hidden))
    if found is None:
        return invalid(f"y.json has to be a list of {len(hidden)} finite numbers")
    ys = [y for _, y in hidden]
    mean = sum(ys) / len(ys)
    error = sum((one - y) ** 2 for one, y in zip(found, ys, strict=True))
    score = max(0.0, 1 - error / sum((y - mean) ** 2 for y in ys))
    return Verdict(score, metrics={"error": error / len(ys)}, feedback=f"mean squared error {error / len(ys):.4g}")


def read(data: bytes | None, count: int) -> list[float] | None:
    """Read the numbers that a program wrote; None if they are invalid."""
    if data is None or len(data) > 100_000:
        return None
    try:
        values = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(values, list) or len(values) != count:
        return None
    sound = all(type(value) in (int, float) and abs(value) < 1e9 for value in values)  # NaN is not below anything
    return [float(value) for value in values] if sound else None


def invalid(why: str) -> Verdict:
    """Verdict on an invalid answer."""
    return Verdict(0.0, valid=False, feedback=why[:300])


PROGRAM = """import json
from math import sin
xs = json.load(open("x.json"))
json.dump([{value} for x in xs], open("y.json", "w"))
"""


def gold(problem: Problem) -> Any:
    """A right answer, for `sia check` alone."""
    return {"code": PROGRAM.format(value=problem.private["formula"])}


def baits(problem: Problem) -> dict[str, Any]:
    """Answers that must not pay, for `sia check` alone: write down every trick that you can think of."""
    ys = [y for _, y in problem.public["points"]]
    values = {
        "the mean": f"{sum(ys) / len(ys)} + 0 * x",
        "not a number": "float('nan')",
        "more than finite": "1e999",
        "true for all": "x == x",
    }
    short = PROGRAM.format(value="0.0").replace("for x in xs", "for x in xs[1:]")
    programs = {name: {"code": PROGRAM.format(value=value)} for name, value in values.items()}
    return {**programs, "too few": {"code": short}}
