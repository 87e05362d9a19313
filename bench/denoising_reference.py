"""Score well-known methods on the denoising task under both modes, as reference points.

Each method is run on the parts of a few problems of each split, as an answer would be, and scored by the task's own
code. The methods use numpy alone and are trusted: no sandbox. `--data` names a setting of the task
(`SIA_DENOISING_DATA`), whose data are fetched. `--file` takes a matrix of counts in CSR (.npz: data, indices, indptr,
shape) instead, and measures one whole split of it.

    python bench/denoising_reference.py [--data NAME ...] [--file FILE ...] [--problems N] [--quick] [--json FILE]
"""

import argparse
import importlib.util
import json
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from tasks.denoising import data
from tasks.denoising.magic import magic
from tasks.denoising.metrics import Reference, mass_share, match_depth
from tasks.denoising.problems import SPLITS, Recipe, matrices, problems
from tasks.denoising.scoring import compat, judge

Method = Callable[[Any], Any]


@cache
def denoiser() -> Any:
    """Import the seed harness's program from its file, because a harness is not part of the package."""
    file = Path(data.__file__).parent / "harness" / "denoiser.py"
    spec = importlib.util.spec_from_file_location("denoiser", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _smoothed(method: str, transform: str, size: int, raw: float = 0.0, expected: float = 0.0) -> Method:
    """Make a program of the seed harness's menus, with these settings."""

    def run(train: Any) -> Any:
        counts = train.astype(np.float64)
        program = denoiser()
        smooth = program.match(program.smoothed(counts, method, transform, size, raw), counts)
        moved = program.match(program.expected_log(smooth), counts)
        return (1.0 - expected) * smooth + expected * moved

    return run


METHODS: Mapping[str, Method] = {
    "none": lambda train: train.astype(np.float64),
    "none, at 1/1000 of the mass": lambda train: train * 1e-3,
    "gene mean": _smoothed("mean", "raw", 0),
    "kNN of raw counts, 10": _smoothed("neighbours", "raw", 10),
    "kNN of logs, 10": _smoothed("neighbours", "log", 10),
    "SVD of logs, rank 8": _smoothed("svd", "log", 8),
    "SVD of square roots, rank 8": _smoothed("svd", "sqrt", 8),
    "MAGIC, exact": magic,
    "mixture: SVD of roots, 0.15 raw": _smoothed("svd", "sqrt", 8, 0.15),
    "mixture, 0.2 expected log": _smoothed("svd", "sqrt", 8, 0.15, 0.2),
    "mixture, 0.4 expected log": _smoothed("svd", "sqrt", 8, 0.15, 0.4),
    "mixture, all expected log": _smoothed("svd", "sqrt", 8, 0.15, 1.0),
    "mixture, mass dumped on one gene": lambda train: _dumped(_smoothed("svd", "sqrt", 8, 0.15)(train), train),
}
COLUMNS = (
    "strict",
    "valid",
    "mse",
    "again",
    "other",
    "poisson",
    "mass",
    "compat",
    "compat_mse",
    "compat_poisson",
    "seconds",
)


def _dumped(smooth: Any, train: Any) -> Any:
    smooth[np.arange(len(smooth)), train.argmax(axis=1)] += 3 * train.sum(axis=1)
    return smooth


def measure(method: Method, parts: tuple[Recipe, ...]) -> dict[str, float]:
    """Measure one method on all parts of one problem, including parts after a broken rule."""
    started = time.perf_counter()
    answers = [method(matrices(part).train) for part in parts]
    seconds = time.perf_counter() - started
    judged = [judge(part, answer) for part, answer in zip(parts, answers, strict=True)]
    valid = not any(one.broken for one in judged)
    shares = [one.figures["mass_share"] / one.figures["train_mass_share"] for one in judged]
    row = {
        "strict": float(np.mean([one.score for one in judged])) if valid else 0.0,
        "valid": float(valid),
        "poisson": judged[0].figures["scaled_poisson"],
        "mass": max(shares),
        "seconds": seconds,
        **compat(parts[0], answers[0]),
    }
    return row | {name: one.figures["scaled_mse"] for name, one in zip(("mse", "again", "other"), judged, strict=False)}


def on_problems(name: str, count: int) -> dict[str, dict[str, float]]:
    """Measure means over `count` problems of each split (0: one of train only), and the spread of the strict score."""
    os.environ[data.CHOICE] = name
    data.prepare(lambda _what, _done, _total: None)
    splits = SPLITS if count else SPLITS[:1]
    plans = [one.private for split in splits for one in problems(data.chosen(), "strict", split)[: max(count, 1)]]
    table = {}
    for name, method in METHODS.items():
        rows = [measure(method, plan.parts) for plan in plans]
        table[name] = {column: float(np.mean([row[column] for row in rows])) for column in rows[0]}
        table[name] |= {"spread": float(np.std([row["strict"] for row in rows])), "problems": len(rows)}
    return table


def on_file(file: Path) -> dict[str, dict[str, float]]:
    """Measure one whole split of a matrix of counts with seed 42, without hidden parts."""
    with np.load(file, allow_pickle=False) as parts:
        counts = np.zeros(tuple(parts["shape"]), dtype=np.int32)
        counts[np.repeat(np.arange(len(counts)), np.diff(parts["indptr"])), parts["indices"]] = parts["data"]
    train = np.random.RandomState(42).binomial(counts, 0.9)
    seen = train.sum(axis=0) > 0
    train, test = train[:, seen], (counts - train)[:, seen]
    reference, table = Reference(train, test), {}
    for name, method in METHODS.items():
        started = time.perf_counter()
        answer = method(train)
        seconds = time.perf_counter() - started
        found, published = reference.scaled(match_depth(answer, train)), reference.scaled(answer)
        table[name] = {"mse": found.mse, "poisson": found.poisson, "mass": mass_share(answer) / mass_share(train)}
        table[name] |= {"compat_mse": published.mse, "compat_poisson": published.published_poisson, "seconds": seconds}
    return table


def show(title: str, table: Mapping[str, Mapping[str, float]]) -> None:
    """Print the table as Markdown."""
    columns = [column for column in COLUMNS if column in next(iter(table.values()))]
    print(f"\n{title}\n\n| method | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
    for name, row in table.items():
        print(f"| {name} | {' | '.join(f'{row[column]:.3f}' for column in columns)} |")


def main() -> None:
    """Print a table for each data set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="*", default=["celltypist"], choices=list(data.SETTINGS), metavar="NAME")
    parser.add_argument("--file", nargs="*", default=[], type=Path)
    parser.add_argument("--problems", type=int, default=4, help="problems of each split")
    parser.add_argument("--quick", action="store_true", help="one training problem")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    report = {}
    # One thread, set before numpy is imported: matrices of this size lose more by waiting than they gain.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        for name in arguments.data:
            report[name] = process.submit(on_problems, name, 0 if arguments.quick else arguments.problems).result()
            show(name, report[name])
        for file in arguments.file:
            report[file.name] = process.submit(on_file, file).result()
            show(file.name, report[file.name])
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
