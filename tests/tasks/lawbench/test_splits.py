"""Pools are disjoint and repeatable, and the data for a harness hold nothing of an answer."""

import random
from collections import Counter
from dataclasses import replace

import pytest

from sia_core.domain.errors import UsageError
from sia_core.domain.rollout import SPLITS
from sia_core.domain.task import Task
from tasks.lawbench import data, library, settings
from tasks.lawbench.splits import deal, plain, splits
from tests.tasks.lawbench import corpus

SIZES = {"train": 40, "gate": 40}


def test_pools_are_disjoint_and_of_the_asked_sizes() -> None:
    pools = splits()
    assert (len(pools.train), len(pools.gate), len(pools.test)) == (40, 40, 40)
    labelled = [*pools.train, *pools.gate, *pools.library]
    assert len({case.id for case in labelled}) == len(labelled)


def test_problem_texts_are_in_no_library_and_no_other_split() -> None:
    pools = splits()
    library_texts = {plain(case.text) for case in pools.library}
    problems = [plain(case.text) for split in SPLITS for case in pools.of(split)]
    assert not library_texts & set(problems)
    assert len(set(problems)) == len(problems)


def test_texts_that_stand_twice_are_never_problems_but_may_be_looked_up() -> None:
    pools = splits()
    assert {7, 17} <= {case.id for case in pools.library}


def test_sealed_texts_that_were_public_in_train_are_flagged_and_kept_out_of_the_library() -> None:
    pools = splits()
    assert pools.repeated == {0, 1}
    assert not {30, 31} & {case.id for case in (*pools.library, *pools.train, *pools.gate)}


def test_every_charge_keeps_half_of_its_rows() -> None:
    pools = splits()
    all_rows = Counter(case.label for case in data.train_cases())
    dealt = Counter(case.label for case in (*pools.train, *pools.gate))
    assert all(dealt[label] <= count // 2 for label, count in all_rows.items())


def test_dealing_repeats_and_depends_on_the_seed() -> None:
    rows, test = data.train_cases(), data.sealed_cases()
    assert deal(rows, test, SIZES, 1) == deal(rows, test, SIZES, 1)
    assert deal(rows, test, SIZES, 1).train != deal(rows, test, SIZES, 2).train


def test_row_with_a_copy_is_kept_out_of_the_problems() -> None:
    """The control: a copy of any row with other spacing keeps that row from being a problem."""
    rows, test, rng = list(data.train_cases()), data.sealed_cases(), random.Random(0)
    dealt = deal(rows, test, SIZES, 1).train
    twin = rng.choice(dealt)
    rows.append(replace(twin, id=9999, text="\u3000".join(twin.text)))
    again = deal(rows, test, SIZES, 1)
    assert twin.id not in {case.id for case in (*again.train, *again.gate)}


def test_public_data_hold_the_text_and_nothing_of_the_answer(task: Task) -> None:
    for split in SPLITS:
        for problem in task.problems(split):
            assert set(problem.public) == {"text", "track"}
            assert not problem.files
            assert not any(charge in problem.id for charge in corpus.CHARGES)


def test_shared_directory_holds_no_problem(task: Task) -> None:
    assert task.shared == library.build()
    files = {file.name: file.read_bytes() for file in library.build().iterdir()}
    for split in SPLITS:
        for problem in task.problems(split):
            piece = problem.public["text"].strip()[:24].encode()
            assert not any(piece in data for data in files.values()), problem.id


def test_every_id_holds_the_track(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    assert task.problems("gate")[0].id.startswith("llm-gate-")
    monkeypatch.setenv(settings.TRACK, "open")
    assert Task.load("lawbench").problems("gate")[0].id.startswith("open-gate-")
    monkeypatch.setenv(settings.TRACK, "closed")
    with pytest.raises(UsageError, match="llm, open"):
        settings.track()
