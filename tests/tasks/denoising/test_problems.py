"""Splits that never meet, molecules that add up, and nothing private in what a harness sees."""

import io
import json
import pickle
import time

import numpy as np
import pytest

from sia_core.domain.errors import UsageError
from sia_core.domain.rollout import Split
from sia_core.domain.task import Problem, Task
from tasks.denoising.data import load_counts
from tasks.denoising.problems import NUMBER, SPLITS, TRAIN_FILE, Recipe, matrices, pool, train_file
from tasks.denoising.settings import data_settings


def test_pools_share_no_cell_and_leave_none_out() -> None:
    cells = [cell for split in SPLITS for cell in pool("celltypist", split)]
    assert sorted(cells) == list(range(len(load_counts("celltypist"))))


def test_problems_share_no_seed() -> None:
    parts = (("celltypist", "own"), ("celltypist", "again"), ("pbmc68k", "other"), ("pbmc68k", "own"))
    recipes = [
        Recipe(source, split, number, part)  # type: ignore[arg-type]
        for source, part in parts
        for split in SPLITS
        for number in range(NUMBER[split])
    ]
    seeds = {recipe.seed(purpose) for recipe in recipes for purpose in ("cells", "molecules")}
    assert len(seeds) == 2 * len(recipes)


def test_train_and_test_molecules_add_up_to_cells_of_the_pool() -> None:
    part = matrices(Recipe("celltypist", "gate", 5))
    whole = load_counts("celltypist")[list(pool("celltypist", "gate"))]
    assert len(part.train) == int(data_settings()["cells"])
    if part.train.shape[1] == whole.shape[1]:
        totals = sorted(whole.sum(axis=1).tolist())
        assert set((part.train + part.test).sum(axis=1).tolist()) <= set(totals)
    assert (part.train >= 0).all() and (part.test >= 0).all()


def test_nine_of_ten_molecules_are_train_and_every_gene_has_some() -> None:
    part = matrices(Recipe("celltypist", "train", 0))
    share = part.train.sum() / (part.train.sum() + part.test.sum())
    assert share == pytest.approx(0.9, abs=0.002)
    assert (part.train.sum(axis=0) > 0).all()


def test_genes_stand_in_another_order_in_every_problem() -> None:
    first, second = (matrices(Recipe("celltypist", "train", number)).train.sum(axis=0) for number in (0, 1))
    size = min(len(first), len(second))
    assert abs(np.corrcoef(first[:size], second[:size])[0, 1]) < 0.3


@pytest.mark.parametrize("split", SPLITS)
def test_problems_are_many_quick_and_small(task: Task, split: Split) -> None:
    started = time.perf_counter()
    problems = Task.load("denoising").problems(split)
    assert time.perf_counter() - started < 2.0
    assert len(problems) == NUMBER[split]
    assert all(len(pickle.dumps(problem)) < 2000 for problem in problems)


def test_facts_describe_the_file(problem: Problem) -> None:
    train = np.load(io.BytesIO(problem.files[TRAIN_FILE]), allow_pickle=False)
    facts = json.loads(json.dumps(dict(problem.public)))
    assert facts["data"] == "celltypist" and problem.id.startswith("celltypist-train")
    assert (facts["cells"], facts["genes"]) == train.shape
    assert facts["counts"] == train.sum()
    assert facts["zeros"] == pytest.approx(np.mean(train == 0), abs=1e-4)


def test_problem_survives_pickling(problem: Problem) -> None:
    again = pickle.loads(pickle.dumps(problem))
    assert again == problem
    assert again.files[TRAIN_FILE] == problem.files[TRAIN_FILE]


def test_harness_sees_train_and_nothing_of_test(problem: Problem) -> None:
    assert set(problem.files) == {TRAIN_FILE}
    part = matrices(problem.private.own)
    shown = np.load(io.BytesIO(problem.files[TRAIN_FILE]), allow_pickle=False)
    assert np.array_equal(shown, part.train)
    assert part.test.astype(np.int32).tobytes() not in problem.files[TRAIN_FILE]
    assert set(problem.public) == {"data", "cells", "genes", "counts", "zeros"}
    assert "test" not in repr(problem)


def test_hidden_parts_are_other_splits_in_other_orders(problem: Problem) -> None:
    own, again, other = (matrices(part) for part in problem.private.parts)
    cells = {tuple(sorted(cell[cell > 0])) for cell in own.train + own.test}
    found = [tuple(sorted(cell[cell > 0])) for cell in again.train + again.test]
    assert len(found) == int(data_settings()["again_cells"])
    # Genes that lost all their train counts are dropped in each part for itself, so a few cells differ a little.
    assert sum(cell in cells for cell in found) > len(found) / 2
    assert not np.array_equal(again.train[:50, :50], own.train[:50, :50])
    assert len(other.train) == int(data_settings()["other_cells"])
    totals = np.sort(again.train.sum(axis=0))[::-1], again.train.sum(axis=0)
    assert not np.array_equal(*totals), "genes do not stand by their totals"


def test_hidden_parts_are_not_shown(problem: Problem) -> None:
    shown = problem.files[TRAIN_FILE] + json.dumps(dict(problem.public)).encode()
    for part in problem.private.hidden:
        assert matrices(part).train[:2].tobytes() not in shown
        assert len(train_file(part)) < len(shown)


@pytest.mark.parametrize("split", SPLITS)
def test_cells_of_the_hidden_data_set_are_of_their_splits_pool(task: Task, split: Split) -> None:
    whole = load_counts("pbmc68k").sum(axis=1)
    allowed = set(whole[list(pool("pbmc68k", split))].tolist())
    part = matrices(task.problems(split)[1].private.parts[2])
    assert set((part.train + part.test).sum(axis=1).tolist()) & allowed


def test_every_id_holds_the_mode(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIA_DENOISING_MODE", "openproblems_compat")
    assert Task.load("denoising").problems("gate")[0].id == "celltypist-compat-gate-000"
    monkeypatch.setenv("SIA_DENOISING_MODE", "lenient")
    with pytest.raises(UsageError, match="lenient"):
        Task.load("denoising").problems("gate")
