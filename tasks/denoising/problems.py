"""Problems: three pools of cells that never meet, and many molecular splits of each.

One permutation of all cells, by the seed in task.toml, is cut into a train, a gate and a test pool. A problem
is a sample of its pool's cells, in an order of its own, with a gene order of its own (so that no gene can be known
by its place) and its own binomial split: 9 of 10 molecules are train, the rest is test. Genes without train
counts are dropped. A problem holds only its recipe; matrices are made on first use and kept for the last few.

A problem has up to three parts. `own` is what a harness sees. `again` and `other` it never sees: the same cells,
split once more, and cells of another data set; both in orders of cells and genes of their own. A program meets
one part at a time, since `own` and `again` together would give both test parts away.
"""

import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache, partial
from typing import Any, Generic, Literal, TypeVar

import numpy as np

from sia_core.domain.hashing import derive_seed
from sia_core.domain.rollout import Split
from sia_core.domain.task import Problem
from tasks.denoising.data import IntCounts, Setting, Source, load_counts
from tasks.denoising.settings import data_settings

Part = Literal["own", "again", "other"]
Mode = Literal["strict", "openproblems_compat"]

SPLITS: tuple[Split, ...] = ("train", "gate", "test")
NUMBER: Mapping[Split, int] = {"train": 24, "gate": 96, "test": 48}
TRAIN_FILE = "X_train.npy"
KEPT = 48
"""Parts whose matrices and references a process holds, about 5 MB each."""

_CELLS: Mapping[Part, str] = {"own": "cells", "again": "again_cells", "other": "other_cells"}
"""Setting that says how many cells a part has."""

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
    """Everything that makes one part's matrices."""

    source: Source
    split: Split
    number: int
    part: Part = "own"

    def seed(self, purpose: str) -> int:
        """A 32-bit seed of this part, one a purpose; never shared with another problem, split or part."""
        kind = () if self.part == "own" else (self.part,)
        return derive_seed(data_settings()["seed"], self.source, self.split, self.number, *kind, purpose) % 2**32


@dataclass(frozen=True)
class Plan:
    """Facts of a problem that the verifier knows."""

    own: Recipe
    hidden: tuple[Recipe, ...]
    """Hidden parts that a program is also run on."""
    mode: Mode

    @property
    def parts(self) -> tuple[Recipe, ...]:
        """All parts, the public one first."""
        return (self.own, *self.hidden)


@dataclass(frozen=True)
class Matrices:
    """Both parts of one molecular split, cells x genes."""

    train: IntCounts
    test: IntCounts = field(repr=False)


def problems(setting: Setting, mode: Mode, split: Split) -> list[Problem]:
    """All problems of a split."""
    return [_problem(setting, mode, Recipe(setting.source, split, number)) for number in range(NUMBER[split])]


def _problem(setting: Setting, mode: Mode, own: Recipe) -> Problem:
    hidden = [replace(own, part="again")]
    if setting.other is not None:
        hidden.append(Recipe(setting.other, own.split, own.number, "other"))
    name = setting.name if mode == "strict" else f"{setting.name}-compat"
    return Problem(
        id=f"{name}-{own.split}-{own.number:03d}",
        split=own.split,
        public=Lazy(("data", "cells", "genes", "counts", "zeros"), partial(_facts, setting.name, own)),
        files=Lazy((TRAIN_FILE,), partial(_files, own)),
        private=Plan(own, tuple(hidden), mode),
    )


@cache
def pool(source: Source, split: Split) -> tuple[int, ...]:
    """Cells (rows of the counts) that problems of this split are sampled from."""
    cells = len(load_counts(source))
    order = np.random.RandomState(int(data_settings()["seed"])).permutation(cells)
    return tuple(np.array_split(order, len(SPLITS))[SPLITS.index(split)].tolist())


@lru_cache(maxsize=KEPT)
def matrices(recipe: Recipe) -> Matrices:
    """Sample cells, shuffle genes, split molecules, drop genes that train does not have."""
    counts = load_counts(recipe.source)
    shuffle = np.random.RandomState(recipe.seed("cells"))
    chosen = counts[np.ix_(_cells(recipe, shuffle), shuffle.permutation(counts.shape[1]))]
    keep = float(data_settings()["keep"])
    train = np.random.RandomState(recipe.seed("molecules")).binomial(chosen, keep).astype(np.int32)
    seen = train.sum(axis=0) > 0
    return Matrices(train[:, seen], (chosen - train)[:, seen])


def _cells(recipe: Recipe, shuffle: np.random.RandomState) -> Any:
    """Rows of the counts; of `again`, some of `own` in another order."""
    rows = pool(recipe.source, recipe.split)
    if recipe.part == "again":
        own = replace(recipe, part="own")
        rows = tuple(_cells(own, np.random.RandomState(own.seed("cells"))))
    return shuffle.permutation(rows)[: int(data_settings()[_CELLS[recipe.part]])]


def _facts(name: str, recipe: Recipe) -> dict[str, Any]:
    train = matrices(recipe).train
    cells, genes = train.shape
    return {
        "data": name,
        "cells": cells,
        "genes": genes,
        "counts": int(train.sum()),
        "zeros": round(float(np.mean(train == 0)), 4),
    }


def _files(recipe: Recipe) -> dict[str, bytes]:
    return {TRAIN_FILE: train_file(recipe)}


def train_file(recipe: Recipe) -> bytes:
    """The train part as a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, matrices(recipe).train, allow_pickle=False)
    return buffer.getvalue()
