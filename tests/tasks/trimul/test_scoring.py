"""Samples become verdicts: means, both modes, the floor, and impossible clocks."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest

from sia_core.domain.errors import SandboxError
from sia_core.domain.lab import Limits, ProgramEndedError, SandboxResult
from sia_core.domain.task import Problem, Task
from tasks.trimul import task as module
from tasks.trimul.candidate import Runner
from tasks.trimul.compare import Error
from tasks.trimul.inputs import OUT, floats, layout, make
from tasks.trimul.measure import Measured, Sample
from tasks.trimul.reference import expected
from tasks.trimul.roofline import floor_s, flops, moved
from tasks.trimul.scoring import judge
from tasks.trimul.shapes import OFFICIAL, Call, Recipe, Shape

RIGHT = Error(0.001, 1e-7, 0)
RECIPE = Recipe("cpu", "ci", "train", 0)


def measured(seconds: Sequence[float], naive: float = 1.0, error: Error = RIGHT) -> Measured:
    """Every call of a problem; the timed calls have these times in turn."""
    times = itertools.cycle(seconds)
    calls = [*RECIPE.checks(), *RECIPE.calls()]
    return Measured([Sample(call, error, next(times), naive) if call.timed else Sample(call, RIGHT) for call in calls])


def test_score_is_a_ratio_of_medians_and_is_not_clipped_at_one() -> None:
    verdict = judge(measured([0.1, 0.2, 0.3, 0.4]), RECIPE)
    assert verdict.valid and verdict.score == pytest.approx(1.0 / 0.25)
    assert verdict.metrics["strict_us"] == pytest.approx(250_000)
    assert verdict.metrics["compat_us"] == pytest.approx(300_000)  # the second and the fourth have masks of ones
    assert verdict.metrics["compat_reward"] == pytest.approx(1500 / 300_000)


def test_on_a_gpu_the_score_is_the_reward_over_the_geometric_mean_of_cases() -> None:
    recipe = Recipe("cuda", "official", "train", 0)
    calls = [*recipe.checks(), *recipe.calls()]
    samples = [Sample(call, RIGHT, 1e-3 * call.case.shape.n if call.timed else 0.0) for call in calls]
    sizes = [case.shape.n for case in OFFICIAL]
    mean = float(np.exp(np.mean(np.log(sizes)))) * 1e3
    verdict = judge(Measured(samples), recipe)
    assert verdict.score == pytest.approx(1500 / mean)
    assert verdict.score == pytest.approx(verdict.metrics["strict_reward"])


@pytest.mark.parametrize(
    ("error", "compat", "reason"),
    [
        (Error(1.01, 1e-7, 0), 0.0, "wrong result"),
        (Error(0.99, 1.1e-5, 0), 1.0, "precision"),
        (Error(0.99, 0.99e-5, 0), 1.0, ""),
    ],
)
def test_calls_beyond_an_error_budget_are_invalid(error: Error, compat: float, reason: str) -> None:
    verdict = judge(measured([0.1] * 4, error=error), RECIPE)
    assert verdict.metrics["compat_valid"] == compat
    assert verdict.valid == (not reason) and reason in verdict.feedback
    assert (verdict.score > 0) == verdict.valid


def test_every_sample_is_kept() -> None:
    metrics = judge(measured([0.1, 0.2, 0.3, 0.4], naive=0.7), RECIPE).metrics
    assert [round(metrics[f"case0_us_{number}"]) for number in range(4)] == [100_000, 200_000, 300_000, 400_000]
    assert metrics["case0_naive_us_2"] == pytest.approx(700_000)


def test_floor_covers_necessary_computation_and_transfer() -> None:
    shape = Shape(1, 256, 128, 128)
    places = 256 * 256
    assert flops(shape) == 2 * (256**3 * 128 + 6 * places * 128 * 128)
    assert moved(shape) == 2 * 4 * places * 128
    assert floor_s(shape, "cuda") < floor_s(shape, "cpu") == flops(shape) / 320e9


class Instant:
    """A session that gives the right result of every call by a clock that hardly moves."""

    def __init__(self, calls: list[Call], room: int, seconds: float) -> None:
        self.memory = memoryview(bytearray(4 * room))
        self.calls, self._seconds, self._clock = calls, seconds, 0.0
        self._loaded = False

    def send(self, data: bytes) -> None:
        call = self.calls.pop(0)
        start, shape = layout(call.case.shape)[OUT]
        cells = np.frombuffer(self.memory, np.float32)
        cells[start : start + int(np.prod(shape))] = expected(call).ravel()
        self._clock += self._seconds

    def recv(self, limit: int, timeout_s: float) -> bytes:
        return b""

    def spend(self, seconds: float) -> None:
        """Spend CPU time, as a thread that runs between calls does."""
        self._clock += seconds

    def cpu_s(self) -> float:
        return self._clock

    def close(self) -> SandboxResult:
        return SandboxResult("ok")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None: ...


class InstantLab:
    """A lab that opens the candidate's session first, then the naive loop's."""

    def __init__(self, seconds: float, naive: float) -> None:
        self.opened: list[Instant] = []
        self._sessions = [([*RECIPE.checks(), *RECIPE.calls()], seconds), ([*RECIPE.calls()], naive)]

    def run(self, files: Mapping[str, bytes], limits: Limits, **_: Any) -> SandboxResult:
        return SandboxResult("ok")

    def open(self, files: Mapping[str, bytes], limits: Limits, *, memory_bytes: int = 0, **_: Any) -> Instant:
        calls, seconds = self._sessions.pop(0)
        self.opened.append(Instant(calls, memory_bytes // 4, seconds))
        return self.opened[-1]


def test_time_below_the_floor_is_refused(task: Task, problem: Problem) -> None:
    module_of_task = task.module
    module_of_task.forget()
    floor = floor_s(RECIPE.cases[0].shape, "cpu")
    verdict = task.verify(problem, {"code": "x"}, InstantLab(0.0, 1.0))
    assert (verdict.score, verdict.valid) == (0.0, False) and "roofline" in verdict.feedback
    module_of_task.forget()
    verdict = task.verify(problem, {"code": "x"}, InstantLab(2 * floor, 10 * floor))
    assert verdict.valid and verdict.score == pytest.approx(5.0)
    module_of_task.forget()


def test_naive_loop_is_called_before_every_call_warm_ones_too(task: Task, problem: Problem) -> None:
    task.module.forget()
    lab = InstantLab(0.1, 1.0)
    metrics = task.verify(problem, {"code": "x"}, lab).metrics
    task.module.forget()
    assert [session.calls for session in lab.opened] == [[], []]
    timed = [name for name in metrics if name.startswith("case0_us_")]
    assert [name for name in metrics if "naive" in name] == [name.replace("us", "naive_us") for name in timed]
    assert [call.timed for call in RECIPE.calls()] == [False] * 3 + [True] * len(timed)


def test_declared_range_holds_every_score(task: Task, problem: Problem) -> None:
    floor = floor_s(RECIPE.cases[0].shape, "cpu")
    task.module.forget()
    verdict = task.verify(problem, {"code": "x"}, InstantLab(2 * floor, 1e6 * floor))
    assert verdict.score == task.config.score_range[1]
    task.module.forget()


def test_room_is_made_for_the_largest_call() -> None:
    call = next(RECIPE.checks())
    assert sum(array.size for array in make(call).arrays.values()) < floats(call.case.shape)
    assert module.load("train")


def test_shapes_of_gate_and_test_are_not_public(task: Task) -> None:
    assert task.problems("train")[0].public["shapes"]
    for split in ("gate", "test"):
        for problem in task.problems(split):
            assert problem.public["shapes"] == [] and not problem.files


def test_cpu_time_between_calls_is_added_to_the_next_call() -> None:
    first, second = list(RECIPE.checks())[:2]
    lab = InstantLab(0.01, 1.0)
    with Runner({}, 1 << 20, lab) as runner:
        assert runner.call(make(first)).cpu_s == pytest.approx(0.01)
        lab.opened[0].spend(0.5)
        assert runner.call(make(second)).cpu_s == pytest.approx(0.51)


def test_data_differ_between_installations_and_not_between_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Recipe("cpu", "ci", "train", 0).seed
    assert Recipe("cpu", "ci", "train", 0).seed == here
    monkeypatch.setenv("SIA_HOME", str(tmp_path))
    assert Recipe("cpu", "ci", "train", 0).seed != here
    assert (tmp_path / "data" / "trimul" / "secret").stat().st_mode & 0o077 == 0
    assert [path.name for path in (tmp_path / "data" / "trimul").iterdir()] == ["secret"]


def test_failing_naive_loop_leaves_the_rollout_unscored(
    task: Task, problem: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = InstantLab(0.01, 1.0)
    calls, seconds = lab._sessions[1]
    lab._sessions[1] = ([], seconds)
    task.module.forget()
    monkeypatch.setattr(Instant, "send", broken_when_empty)
    with pytest.raises(SandboxError, match="naive loop failed"):
        task.verify(problem, {"code": "x"}, lab)
    assert calls


HONEST_SEND = Instant.send


def broken_when_empty(session: Instant, data: bytes) -> None:
    """Break a session that has no calls left."""
    if not session.calls:
        raise ProgramEndedError("memory", "killed")
    HONEST_SEND(session, data)
