"""Test the optional hooks of a task: a shared directory, the gateway's record and a report."""

from collections.abc import Callable
from pathlib import Path

import pytest

from sia_core.domain.errors import TaskError
from sia_core.domain.rollout import Turn
from sia_core.domain.task import Task
from sia_core.record.phases import Figures
from sia_core.report.table import report_rows
from tests.factories import sealed

PLAIN = """
from sia_core.domain.rollout import Verdict
from sia_core.domain.task import Problem

def load(split):
    return [Problem("one", split)]

"""
VERIFY = "def verify(problem, answer, lab):\n    return Verdict(0.5)\n"
TURN = Turn("choose", "prompt", "a", None, 1.0, options=("a", "b"))
Make = Callable[[str], Task]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def one(code: str) -> Task:
        (tmp_path / "task.toml").write_text('name = "hooks"\ntitle = "t"\nmetric = "m"\n')
        (tmp_path / "task.py").write_text(PLAIN + code)
        return Task.load(tmp_path)

    return one


def test_verifier_without_turns_is_called_without_them(make: Make) -> None:
    task = make(VERIFY)
    assert task.verify(task.problems("train")[0], {}, None, [TURN]).score == 0.5  # type: ignore[arg-type]
    assert task.shared is None and task.report("test", []) == {}


def test_verifier_with_turns_receives_the_record_or_an_empty_one(make: Make) -> None:
    task = make("def verify(problem, answer, lab, turns=()):\n    return Verdict(len(turns) / 2)\n")
    problem = task.problems("train")[0]
    assert task.verify(problem, {}, None, [TURN, TURN]).score == 1.0  # type: ignore[arg-type]
    assert task.verify(problem, {}, None).score == 0.0  # type: ignore[arg-type]


def test_shared_path_must_be_a_directory(make: Make, tmp_path: Path) -> None:
    assert make(VERIFY + f"def shared():\n    return {str(tmp_path)!r}\n").shared == tmp_path
    with pytest.raises(TaskError, match="not a directory"):
        _ = make(VERIFY + "def shared():\n    return '/no/such/place'\n").shared


@pytest.mark.parametrize("value", ["float('nan')", "float('inf')", "None", "[1]"])
def test_report_holds_finite_numbers_and_texts(make: Make, value: str) -> None:
    with pytest.raises(TaskError, match="not a number or a text"):
        make(VERIFY + f"def report(split, rollouts):\n    return {{'x': {value}}}\n").report("test", [])


def test_report_is_shown_side_by_side() -> None:
    figures: dict[str, Figures] = {
        "final": (("accuracy", 0.5), ("cases", 12)),
        "seed": (("accuracy", 0.25), ("note", "x")),
    }
    test = sealed(node=2, report=figures)
    assert report_rows(test) == [
        {"figure": "accuracy", "final": "0.5000", "seed": "0.2500"},
        {"figure": "cases", "final": "12", "seed": "-"},
        {"figure": "note", "final": "-", "seed": "x"},
    ]
