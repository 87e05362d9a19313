"""Corpus figures hold strict and published accuracy, wrong answers by kind, and baselines without a policy."""

import math
from typing import Any

import pytest

from sia_core.domain.rollout import Failure, Rollout, Unit
from sia_core.domain.task import Task
from sia_core.report.table import report_rows
from tasks.lawbench import lines
from tasks.lawbench.data import sealed_cases
from tasks.lawbench.figures import wilson
from tests.factories import sealed
from tests.tasks.lawbench.corpus import CHARGES
from tests.tasks.lawbench.test_verify import chose


def graded(task: Task, number: int, label: Any, *, said: bool = True, failure: str = "", seed: int = 0) -> Rollout:
    """A rollout of sealed case `number` that answers `label`."""
    problem = task.problems("test")[number]
    turns = (chose(label),) if said and isinstance(label, str) else ()
    unit = Unit(task.digest, "harness", "policy", None, "test", problem.id, seed)
    if failure:
        return Rollout(unit, failure=Failure(failure, "because"))
    answer = {"label": label}
    verdict = task.verify(problem, answer, None, turns)  # type: ignore[arg-type]
    return Rollout(unit, turns, answer, verdict)


def right(number: int) -> str:
    return sealed_cases()[number].label


def wrong(number: int) -> str:
    return next(charge for charge in CHARGES if charge != right(number))


@pytest.fixture
def rollouts(task: Task) -> list[Rollout]:
    """Ten cases: five right (two of them repeated in train), a wrong answer, and four without an answer."""
    done = [graded(task, number, right(number)) for number in range(5)]
    done.append(graded(task, 5, wrong(5)))
    done.append(graded(task, 6, None))
    done.append(graded(task, 7, "theft"))
    done.append(graded(task, 8, right(8), said=False))
    done.append(graded(task, 9, "", failure="worker"))
    return done


def test_figures_match_values_by_hand(task: Task, rollouts: list[Rollout]) -> None:
    found = task.report("test", rollouts)
    assert found["track"] == "llm"
    assert found["cases"] == "10 of 40"
    assert found["accuracy"] == pytest.approx(5 / 9)
    assert found["accuracy, 7 cases not in train"] == pytest.approx(3 / 7)
    assert found["published accuracy"] == pytest.approx(6 / 10)
    counts = [found[name] for name in ("abstained", "out of list", "not the policy's", "failed", "unscored")]
    assert counts == [1, 1, 1, 0, 1]
    assert found["charges offered, mean"] == len(CHARGES)
    assert "public" in str(found["remark"])


def test_published_figure_does_not_depend_on_the_track(task: Task) -> None:
    unsaid = [graded(task, number, right(number), said=False) for number in range(4)]
    found = task.report("test", unsaid)
    assert (found["accuracy"], found["published accuracy"]) == (0.0, 1.0)


def test_failed_harness_counts_as_wrong(task: Task) -> None:
    found = task.report("test", [graded(task, 0, right(0)), graded(task, 1, None, failure="timeout")])
    assert (found["accuracy"], found["failed"], found["published accuracy"]) == (0.5, 1, 0.5)


def test_macro_accuracy_weighs_charges_not_cases(task: Task) -> None:
    same = [number for number in range(40) if right(number) == right(2)]
    other = next(number for number in range(40) if right(number) != right(2))
    found = task.report(
        "test", [*(graded(task, number, right(2)) for number in same), graded(task, other, wrong(other))]
    )
    assert found["accuracy"] == pytest.approx(len(same) / (len(same) + 1))
    assert found["macro accuracy"] == 0.5


def test_several_rollouts_of_a_case_count_as_their_mean(task: Task) -> None:
    both = [graded(task, 3, right(3), seed=1), graded(task, 3, wrong(3), seed=2), graded(task, 4, right(4))]
    assert task.report("test", both)["accuracy"] == 0.75


def test_lines_without_a_policy_are_on_the_same_cases(task: Task, rollouts: list[Rollout]) -> None:
    found = task.report("test", rollouts)
    truth = {number: right(number) for number in range(10)}
    for name, answers in lines.lines().items():
        assert found[name] == pytest.approx(sum(answers[number] == label for number, label in truth.items()) / 10)
    constant = lines.lines()["constant answer"]
    assert set(constant.values()) == {CHARGES[0]}
    assert len(lines.lines()) == 5 and all(len(answers) == 40 for answers in lines.lines().values())


def test_baseline_lines_are_made_once(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    made = lines.lines()
    lines.lines.cache_clear()
    monkeypatch.setattr(lines, "_compute", lambda: pytest.fail("they are in the store"))
    assert lines.lines() == made


def test_only_the_sealed_split_is_reported(task: Task, rollouts: list[Rollout]) -> None:
    assert task.report("gate", rollouts) == {}
    assert task.report("test", [graded(task, 0, None, failure="worker")]) == {}


@pytest.mark.parametrize(("share", "number"), [(0.0, 20), (1.0, 20), (0.5, 913), (0.777, 913)])
def test_wilson_solves_its_own_equation(share: float, number: int) -> None:
    low, high = wilson(share, number)
    assert 0.0 <= low <= share <= high <= 1.0
    for bound in (low, high):
        if 0.0 < bound < 1.0:
            assert abs(share - bound) == pytest.approx(1.959964 * math.sqrt(bound * (1 - bound) / number), rel=1e-6)


def test_summary_shows_both_sides(task: Task, rollouts: list[Rollout]) -> None:
    found = tuple(task.report("test", rollouts).items())
    figures = {"final": found, "seed": found}
    rows = report_rows(sealed(node=3, report=figures))
    assert rows[2] == {"figure": "accuracy", "final": "0.5556", "seed": "0.5556"}
    assert {"figure", "seed"} == set(report_rows(sealed(node=0, report=figures))[0])
    assert report_rows(sealed(node=1)) == []
