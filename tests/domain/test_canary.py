"""Canaries are found in every place that private data could reach, and are never printed."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sia_core.domain.canary import Canaries
from sia_core.domain.errors import LeakError, TaskError
from sia_core.domain.rollout import Rollout, ToolCall, Verdict
from sia_core.domain.task import Task
from tests.factories import TOY, make_rollout

CANARY = "canary-9c2f71ab04d6e853"
CANARIES = Canaries([CANARY, "another-0123456789abcdef"])
TEXT = f"before {CANARY} after"


@pytest.mark.parametrize(
    ("spoil", "where"),
    [
        (lambda one: replace(one, turns=(replace(one.turns[0], prompt=TEXT),)), "prompt of turn 1"),
        (lambda one: replace(one, turns=(replace(one.turns[0], output=TEXT),)), "output of turn 1"),
        (
            lambda one: replace(one, turns=(replace(one.turns[0], tool_calls=(ToolCall("1", "add", TEXT),)),)),
            "output of turn 1",
        ),
        (lambda one: replace(one, answer={"deep": [{"x": TEXT}]}), "answer"),
        (lambda one: replace(one, answer={TEXT: 1}), "answer"),
        (lambda one: replace(one, notes=("", TEXT)), "notes"),
        (lambda one: replace(one, verdict=Verdict(0.0, feedback=TEXT)), "feedback"),
    ],
)
def test_rollout_that_holds_a_canary_ends_the_run(spoil: Callable[[Rollout], Rollout], where: str) -> None:
    CANARIES.check_rollout(make_rollout())
    with pytest.raises(LeakError) as caught:
        CANARIES.check_rollout(spoil(make_rollout()))
    assert where in caught.value.where
    assert CANARY not in str(caught.value)
    assert caught.value.exit_code == 10


def test_canary_in_a_file_or_a_decision_is_refused() -> None:
    with pytest.raises(LeakError, match=r"harness, file agent.py"):
        CANARIES.check_files({"a.py": b"", "agent.py": TEXT.encode()}, "harness")
    with pytest.raises(LeakError, match="a file's name") as caught:
        CANARIES.check_files({CANARY: b""}, "harness")
    assert CANARY not in str(caught.value)
    with pytest.raises(LeakError):
        CANARIES.check_data({"reason": TEXT}, "decision")
    Canaries().check_data({"reason": TEXT}, "decision")


def test_canaries_of_a_task_are_checked() -> None:
    task = Task.load(TOY)
    canary = task.problems("test")[0].private["canary"]
    with pytest.raises(LeakError):
        task.canaries.check(f"x {canary}", "note")
    Task.load("denoising").canaries.check(canary, "note")


def test_canary_that_may_occur_by_chance_is_refused(tmp_path: Path) -> None:
    copy = shutil.copytree(TOY, tmp_path / "task")
    (copy / "task.py").write_text((copy / "task.py").read_text().replace("toy-canary-b1f04e7a92c6d358", "blue"))
    with pytest.raises(TaskError, match="16 to 128 random"):
        _ = Task.load(copy).canaries
