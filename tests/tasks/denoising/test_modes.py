"""Both scores of a verdict agree with external code, in either mode, for honest and cheating programs."""

from typing import Any

import numpy as np
import pytest

from sia_core.domain.rollout import Verdict
from sia_core.domain.task import Problem, Task
from tasks.denoising.baits import BAITS, SOUND
from tasks.denoising.magic import magic
from tasks.denoising.problems import Recipe, matrices
from tasks.denoising.scoring import COMPAT_POISSON, compat
from tests.tasks.denoising.labs import Answers, InProcessLab

MATRICES = ("sound", "raw", "little mass", "dumped", "test itself", "random")


def matrix(name: str, recipe: Recipe) -> Any:
    """An answer on the public part, on scales of its own."""
    part = matrices(recipe)
    train = part.train.astype(np.float64)
    dumped = magic(part.train)
    dumped[np.arange(len(dumped)), train.argmax(axis=1)] += 3 * train.sum(axis=1)
    return {
        "sound": magic(part.train) * np.linspace(0.5, 2.0, len(train))[:, None],
        "raw": train,
        "little mass": train * 1e-3,
        "dumped": dumped,
        "test itself": part.test * (train.sum() / part.test.sum()),
        "random": np.random.RandomState(1).rand(*train.shape),
    }[name]


def published(recipe: Recipe, denoised: Any, normalise: Any, mse: Any) -> tuple[float, float]:
    """Scaled mse and Poisson of Open Problems' denoising task, written down from its definition."""
    part = matrices(recipe)
    train, test = part.train.astype(np.float64), part.test.astype(np.float64)

    def error(matrix: Any) -> float:
        return float(mse(normalise(test), normalise(matrix)))

    def loss(matrix: Any) -> float:
        scaled = matrix * test.sum() / train.sum()
        return float(np.mean(test - scaled * np.log(test + 1e-6)))

    perfect = test * train.sum() / test.sum()
    return (
        (error(train) - error(denoised)) / error(train),
        (loss(train) - loss(denoised)) / (loss(train) - loss(perfect)),
    )


@pytest.mark.parametrize("name", MATRICES)
def test_compat_is_the_published_metric_by_sklearn(problem: Problem, name: str) -> None:
    preprocessing, metrics = pytest.importorskip("sklearn.preprocessing"), pytest.importorskip("sklearn.metrics")
    own = problem.private.own
    denoised = matrix(name, own)
    found = compat(own, denoised)
    mse, poisson = published(
        own, denoised, lambda part: np.log1p(preprocessing.normalize(part, norm="l1") * 1e4), metrics.mean_squared_error
    )
    assert found["compat_mse"] == pytest.approx(mse, abs=1e-6)
    assert found["compat_poisson"] == pytest.approx(poisson, abs=1e-6)
    assert found["compat"] == pytest.approx(max(mse, 0.0) if poisson >= COMPAT_POISSON else 0.0, abs=1e-6)


@pytest.mark.slow  # importing scanpy takes half a minute on a busy machine
@pytest.mark.parametrize("name", MATRICES)
def test_compat_is_the_published_metric_by_scanpy_and_sklearn(problem: Problem, name: str) -> None:
    anndata, scanpy = pytest.importorskip("anndata"), pytest.importorskip("scanpy")
    metrics = pytest.importorskip("sklearn.metrics")

    def normalise(part: Any) -> Any:
        table = anndata.AnnData(part.copy())
        scanpy.pp.normalize_total(table, target_sum=10_000)
        scanpy.pp.log1p(table)
        return table.X

    own = problem.private.own
    denoised = matrix(name, own)
    found = compat(own, denoised)
    mse, poisson = published(own, denoised, normalise, metrics.mean_squared_error)
    assert (found["compat_mse"], found["compat_poisson"]) == pytest.approx((mse, poisson), abs=1e-6)


def verdicts(task: Task, number: int, code: str, lab: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[Verdict, Verdict]:
    """In the modes strict and openproblems_compat."""
    strict = task.verify(task.problems("train")[number], {"code": code}, lab)
    monkeypatch.setenv("SIA_DENOISING_MODE", "openproblems_compat")
    other = Task.load("denoising")
    return strict, other.verify(other.problems("train")[number], {"code": code}, lab)


@pytest.mark.parametrize("name", ["sound", "mass dumped on one gene a cell", "X at little mass"])
def test_strict_and_compat_numbers_are_in_every_verdict(
    task: Task, lab: InProcessLab, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    strict, published = verdicts(task, 3, BAITS.get(name, SOUND), lab, monkeypatch)
    assert strict.metrics == published.metrics
    assert (strict.score, published.score) == (strict.metrics["strict"], strict.metrics["compat"])
    assert published.feedback.startswith("openproblems_compat: ")
    assert strict.feedback in published.feedback


def test_dumped_mass_wins_the_published_metric_and_nothing_here(
    task: Task, lab: InProcessLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    strict, published = verdicts(task, 3, BAITS["mass dumped on one gene a cell"], lab, monkeypatch)
    honest, honest_published = verdicts(task, 3, SOUND, lab, monkeypatch)
    assert published.valid and published.score > 0.2
    assert (strict.score, strict.valid) == (0.0, False)
    assert honest.score > 0.05
    assert honest_published.metrics["compat_mse"] < published.metrics["compat_mse"]


@pytest.mark.parametrize("answer", [None, {"code": 1}, {"code": "raise ValueError"}])
def test_answers_without_a_matrix_have_both_numbers_too(
    task: Task, problem: Problem, lab: InProcessLab, answer: Any
) -> None:
    verdict = task.verify(problem, answer, lab)
    assert (verdict.metrics["strict"], verdict.metrics["compat"]) == (0.0, 0.0)


def test_values_without_a_published_figure_score_nothing(problem: Problem) -> None:
    own = problem.private.own
    shape = matrices(own).train.shape
    assert compat(own, np.full(shape, 1e308)) == {"compat": 0.0}


def test_magic_itself_passes_every_part(task: Task, problem: Problem) -> None:
    answers = Answers([magic(matrices(part).train) for part in problem.private.parts])
    verdict = task.verify(problem, {"code": "..."}, answers)
    assert verdict.valid, verdict.feedback
    for part in ("", "again_", "other_"):
        assert verdict.metrics[f"{part}scaled_mse"] == pytest.approx(verdict.metrics[f"{part}magic_mse"], abs=1e-9)
