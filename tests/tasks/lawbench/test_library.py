"""The index is built once, readable by all, and ranks as a plain computation of the same weights does."""

import importlib.util
import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from sia_core.domain.task import Task
from tasks.lawbench import data, library
from tasks.lawbench.splits import splits


@pytest.fixture(scope="module")
def retrieval(task: Task) -> ModuleType:
    """The harness's own reader."""
    spec = importlib.util.spec_from_file_location("lawbench_retrieval", task.path / "harness" / "retrieval.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def reader(retrieval: ModuleType) -> Any:
    return retrieval.Library(library.build())


def test_library_is_built_once_and_open_to_other_users() -> None:
    folder = library.build()
    before = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    assert library.build() == folder
    assert {file.name: file.stat().st_mtime_ns for file in folder.iterdir()} == before
    assert folder.stat().st_mode & 0o777 == 0o755
    assert {file.stat().st_mode & 0o777 for file in folder.iterdir()} == {0o644}
    assert not list(folder.parent.glob(".library*"))


def test_cases_come_back_as_they_are(reader: Any) -> None:
    cases = splits().library
    assert [reader.text(index) for index in range(len(cases))] == [case.text for case in cases]
    assert [reader.labels[number] for number in reader.case_labels] == [case.label for case in cases]
    assert reader.labels == list(data.labels())


def test_rankings_agree_with_dense_arithmetic(reader: Any) -> None:
    cases, charges = splits().library, data.labels()
    idf = np.load(library.build() / "idf.npy")
    rows = library.weigh([case.text for case in cases], idf).toarray()
    own = np.array([charges.index(case.label) for case in cases])
    means = np.stack([rows[own == number].mean(axis=0) for number in range(len(charges))])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    for problem in splits().gate[:10]:
        query = library.weigh([problem.text], idf).toarray()[0]
        similar = rows @ query
        best = [similar[own == number].max() for number in range(len(charges))]
        for how, scores in (("nearest", best), ("centroids", means @ query)):
            ranked = reader.rank(problem.text, how)
            assert sorted(ranked) == list(range(len(charges)))
            assert np.all(np.diff([scores[number] for number in ranked]) < 1e-6)
        assert (
            reader.nearest(problem.text, int(own[0])) == cases[int(np.where(own == own[0], similar, -1).argmax())].text
        )


def test_harness_and_report_rank_alike(reader: Any) -> None:
    texts = [case.text for case in splits().test]
    for how, answers in library.first_candidates(texts).items():
        assert [reader.labels[reader.rank(text, how)[0]] for text in texts] == answers


def test_similar_cases_help_on_this_corpus() -> None:
    test = splits().test
    found = library.first_candidates([case.text for case in test])["centroids"]
    assert sum(answer == case.label for answer, case in zip(found, test, strict=True)) > 0.8 * len(test)


@pytest.mark.parametrize("text", ["", "一", "\ud800\ud800", "x" * 200_000, "\x00\u200b"])
def test_any_text_can_be_looked_up(reader: Any, text: str) -> None:
    for how in ("nearest", "centroids"):
        assert sorted(reader.rank(text, how)) == list(range(len(reader.labels)))
    assert len(reader.cases_near(text, 10)) == 10
