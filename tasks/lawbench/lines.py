"""Answers of simple methods without a policy to the sealed cases, to be printed beside every result.

`linear`: TF-IDF of characters and their bigrams and a linear support vector machine (scikit-learn), fitted to all
labelled rows, and to the library alone, which is what a harness can look up. `copy first`: the first candidate of the
library's rankings, as a policy gets it that copies and does nothing else. `constant`: the commonest charge.

Computed once for a data set (half a minute) and kept beside it.
"""

import json
from collections import Counter
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from typing import Final

from filelock import FileLock

from sia_core.domain.hashing import digest_json
from tasks.lawbench import library
from tasks.lawbench.data import Case, labels, store, train_cases
from tasks.lawbench.splits import splits

Answers = dict[int, str]
"""Charge by id of the sealed case."""

FEATURES: Final = {"analyzer": "char", "ngram_range": (1, 2), "sublinear_tf": True}
MACHINE: Final = {"C": 1.0, "random_state": 0}


@cache
def lines() -> dict[str, Answers]:
    """Answers of each method, by its name in reports; from the store where they are there."""
    parts = [library.build().name, FEATURES, MACHINE, version("scikit-learn")]
    file = store() / f"lines-{digest_json(parts)[:16]}.json"
    with FileLock(f"{file}.lock"):
        if not file.exists():
            partial = file.with_suffix(".part")
            partial.write_text(json.dumps(_compute(), ensure_ascii=False))
            partial.replace(file)
    found: dict[str, dict[str, str]] = json.loads(file.read_text())
    return {name: {int(number): charge for number, charge in answers.items()} for name, answers in found.items()}


def _compute() -> dict[str, Answers]:
    pools, rows = splits(), train_cases()
    first = library.first_candidates([case.text for case in pools.test])
    return {
        f"linear, {len(rows)} cases": linear(rows, pools.test),
        f"linear, library ({len(pools.library)})": linear(pools.library, pools.test),
        "copy first: centroids": _answers(pools.test, first["centroids"]),
        "copy first: nearest": _answers(pools.test, first["nearest"]),
        "constant answer": _answers(pools.test, [commonest(rows)] * len(pools.test)),
    }


def linear(known: Sequence[Case], asked: Sequence[Case]) -> Answers:
    """Predictions of the linear baseline."""
    from sklearn.feature_extraction.text import (  # type: ignore[import-untyped]  # takes a second to load
        TfidfVectorizer,
    )
    from sklearn.svm import LinearSVC  # type: ignore[import-untyped]

    features = TfidfVectorizer(**FEATURES)
    rows = features.fit_transform([case.text for case in known])
    machine = LinearSVC(**MACHINE).fit(rows, [case.label for case in known])
    return _answers(asked, machine.predict(features.transform([case.text for case in asked])).tolist())


def commonest(rows: Sequence[Case]) -> str:
    """The charge with most rows; of several, the first in the list of charges."""
    counts = Counter(case.label for case in rows)
    return max(labels(), key=lambda charge: counts[charge])


def _answers(cases: Sequence[Case], charges: Sequence[str]) -> Answers:
    return {case.id: charge for case, charge in zip(cases, charges, strict=True)}
