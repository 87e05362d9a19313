"""Who is a problem and who may be looked up: pools of cases that never meet.

One permutation of the labelled rows, by the seed in task.toml, deals out the train and the gate problems; the rest is
the library that harnesses may read. The test problems are the sealed rows.

What must hold: no text of any problem, in whatever split and however spaced, stands in the library or in another
split of labelled rows; each charge keeps at least half of its rows in the library.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from sia_core.domain.rollout import Split
from tasks.lawbench.data import Case, sealed_cases, train_cases
from tasks.lawbench.settings import data_settings


@dataclass(frozen=True)
class Splits:
    """Rows by what they are for."""

    train: tuple[Case, ...]
    gate: tuple[Case, ...]
    test: tuple[Case, ...]
    library: tuple[Case, ...]
    repeated: frozenset[int]
    """Ids of test cases whose text stands in the labelled rows as well: their answers were public twice."""

    def of(self, split: Split) -> tuple[Case, ...]:
        """Problems of a split."""
        return {"train": self.train, "gate": self.gate, "test": self.test}[split]


def plain(text: str) -> str:
    """A text without what two copies of it may differ in: spacing, and widths of characters."""
    return re.sub(r"\s+", "", unicodedata.normalize("NFKC", text))


@cache
def splits() -> Splits:
    """The pools of the data in the store. Raises TaskError where these cannot be read."""
    pinned = data_settings()
    sizes = {"train": int(pinned["train"]), "gate": int(pinned["gate"])}
    return deal(train_cases(), sealed_cases(), sizes, int(pinned["seed"]))


def deal(labelled: Sequence[Case], test: Sequence[Case], sizes: dict[str, int], seed: int) -> Splits:
    """Deal out labelled rows. The same arguments give the same pools.

    Args:
        sizes: problems of `train` and `gate`; fewer where the rows do not suffice.
    """
    plains = [plain(case.text) for case in labelled]
    texts = Counter(plains)
    by_test = [plain(case.text) for case in test]
    sealed = set(by_test)
    room = {label: count // 2 for label, count in Counter(case.label for case in labelled).items()}
    pools: dict[str, list[Case]] = {"train": [], "gate": [], "library": []}
    for index in np.random.RandomState(seed).permutation(len(labelled)):
        case, text = labelled[index], plains[index]
        alone = texts[text] == 1 and text not in sealed
        pool = next((name for name, size in sizes.items() if len(pools[name]) < size), "library")
        if pool != "library" and alone and room[case.label]:
            room[case.label] -= 1
        else:
            pool = "library"
        if text not in sealed:
            pools[pool].append(case)
    return Splits(
        tuple(pools["train"]),
        tuple(pools["gate"]),
        tuple(test),
        tuple(sorted(pools["library"], key=lambda case: case.id)),
        frozenset(case.id for case, text in zip(test, by_test, strict=True) if text in texts),
    )
