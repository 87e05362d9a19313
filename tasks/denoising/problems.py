"""Problems: three pools of cells that never meet, and many molecular splits of each.

One permutation of all cells, by the seed in task.toml, is cut into a train, a gate and a test pool. A problem
is a sample of its pool's cells, in an order of its own, with a gene order of its own (so that no gene can be known
by its place) and its own binomial split: 9 of 10 molecules are train, the rest is test. Genes without train
counts are dropped. A problem holds only its recipe; matrices are made on first use and kept for the last few.
"""

import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache, partial
from typing import Any, Generic, TypeVar

import numpy as np

from sia_core.hashing import derive_seed
from sia_core.rollout import Split
from sia_core.task import Problem
from tasks.denoising.data import IntCounts, Source, load_counts
from tasks.denoising.settings import data_settings

SPLITS: tuple[Split, ...] = ("train", "gate", "test")
NUMBER: Mapping[Split, int] = {"train": 24, "gate": 96, "test": 48}
TRAIN_FILE = "X_train.npy"
_KEPT = 32
"""Problems whose matrices a process holds, about 2 MB each."""

Value = TypeVar("Value")


class Lazy(Mapping[str, Value], Generic[Value]):
    """A mapping with known keys whose values are made on first use. Pickles as its recipe."""

    def __init__(self, names: tuple[str, ...], make: Callable[[], Mapping[str, Value]]) -> None:
        self._names = names
        self._make = make

    def __getitem__(self, name: str) -> Value:
        if name not in self._names:
            raise KeyError(name)
        return self._make()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@dataclass(frozen=True)
class Recipe:
    """Everything that makes one problem's matrices."""

    source: Source
    split: Split
    number: int

    def seed(self, purpose: str) -> int:
        """A 32-bit seed of this problem, one a purpose; never shared with another problem or split."""
        return derive_seed(data_settings()["seed"], self.source, self.split, self.number, purpose) % 2**32


@dataclass(frozen=True)
class Matrices:
    """Both parts of one molecular split, cells x genes."""

    train: IntCounts
    test: IntCounts = field(repr=False)


def problems(source: Source, split: Split) -> list[Problem]:
    """All problems of a split."""
    return [_problem(Recipe(source, split, number)) for number in range(NUMBER[split])]


def _problem(recipe: Recipe) -> Problem:
    return Problem(
        id=f"{recipe.source}-{recipe.split}-{recipe.number:03d}",
        split=recipe.split,
        public=Lazy(("data", "cells", "genes", "counts", "zeros"), partial(_facts, recipe)),
        files=Lazy((TRAIN_FILE,), partial(_files, recipe)),
        private=recipe,
    )


@cache
def pool(source: Source, split: Split) -> tuple[int, ...]:
    """Cells (rows of the counts) that problems of this split are sampled from."""
    cells = len(load_counts(source))
    order = np.random.RandomState(int(data_settings()["seed"])).permutation(cells)
    return tuple(np.array_split(order, len(SPLITS))[SPLITS.index(split)].tolist())


@lru_cache(maxsize=_KEPT)
def matrices(recipe: Recipe) -> Matrices:
    """Sample cells, shuffle genes, split molecules, drop genes that train does not have."""
    counts = load_counts(recipe.source)
    shuffle = np.random.RandomState(recipe.seed("cells"))
    cells = shuffle.permutation(pool(recipe.source, recipe.split))[: int(data_settings()["cells"])]
    chosen = counts[np.ix_(cells, shuffle.permutation(counts.shape[1]))]
    keep = float(data_settings()["keep"])
    train = np.random.RandomState(recipe.seed("molecules")).binomial(chosen, keep).astype(np.int32)
    seen = train.sum(axis=0) > 0
    return Matrices(train[:, seen], (chosen - train)[:, seen])


def _facts(recipe: Recipe) -> dict[str, Any]:
    train = matrices(recipe).train
    cells, genes = train.shape
    return {
        "data": recipe.source,
        "cells": cells,
        "genes": genes,
        "counts": int(train.sum()),
        "zeros": round(float(np.mean(train == 0)), 4),
    }


def _files(recipe: Recipe) -> dict[str, bytes]:
    buffer = io.BytesIO()
    np.save(buffer, matrices(recipe).train, allow_pickle=False)
    return {TRAIN_FILE: buffer.getvalue()}
