"""The one retry loop, by a clock that only moves when it is slept on."""

import ast
from pathlib import Path
from typing import Any

import pytest

from sia_core.host.retrying import Schedule
from tests.clock import Clock

ROOT = Path(__file__).resolve().parents[2]


def schedule(clock: Clock, **limits: Any) -> Schedule:
    return clock.drive(Schedule(jitter=0.0), **limits)


class Flaky:
    def __init__(self, times: int) -> None:
        self.left = times

    def __call__(self) -> str:
        if self.left:
            self.left -= 1
            raise ConnectionError(str(self.left))
        return "done"


def passes(error: Exception) -> bool:
    return isinstance(error, ConnectionError)


def test_pauses_double_up_to_the_longest() -> None:
    clock = Clock()
    assert schedule(clock, first_s=1.0, longest_s=5.0).run(Flaky(5), passes) == "done"
    assert clock.slept == [1, 2, 4, 5, 5]


def test_last_attempt_raises_its_own_error_without_context() -> None:
    with pytest.raises(ConnectionError, match="7") as caught:
        schedule(Clock(), attempts=3).run(Flaky(10), passes)
    assert caught.value.__context__ is None


def test_attempts_end_total_seconds_after_the_first_failure() -> None:
    clock = Clock()

    def slow() -> None:
        clock.now += 50.0
        raise ConnectionError

    with pytest.raises(ConnectionError):
        schedule(clock, first_s=1.0, longest_s=1.0, total_s=100.0).run(slow, passes)
    assert len(clock.slept) == 2
    with pytest.raises(ConnectionError):
        schedule(clock, total_s=0.0).run(slow, passes)
    assert len(clock.slept) == 2


def test_server_sets_the_pause_up_to_the_longest() -> None:
    clock = Clock()
    asked = iter([3.0, 600.0, None])
    schedule(clock, first_s=1.0, longest_s=6.0).run(Flaky(3), passes, asked_s=lambda _: next(asked))
    assert clock.slept == [3.0, 6.0, 4.0]


@pytest.mark.parametrize("error", [ValueError("defect"), KeyboardInterrupt()])
def test_error_that_cannot_pass_is_raised_immediately(error: BaseException) -> None:
    clock = Clock()

    def call() -> None:
        raise error

    with pytest.raises(type(error)):
        schedule(clock).run(call, passes)
    assert not clock.slept


def test_jitter_draws_the_pause_from_its_share() -> None:
    clock, ranges = Clock(), []

    def uniform(low: float, high: float) -> float:
        ranges.append((low, high))
        return low

    schedule(clock, first_s=2.0, jitter=0.5, uniform=uniform).run(Flaky(2), passes)
    assert ranges == [(1.0, 2.0), (2.0, 4.0)]
    assert clock.slept == [1.0, 2.0]


def test_tenacity_is_imported_by_the_retry_module_alone() -> None:
    users = [
        path.relative_to(ROOT).as_posix()
        for top in ("sia_core", "flows", "tasks")
        for path in sorted((ROOT / top).rglob("*.py"))
        if any(
            name == "tenacity"
            for node in ast.walk(ast.parse(path.read_text()))
            for name in (
                [node.module]
                if isinstance(node, ast.ImportFrom)
                else [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else []
            )
        )
    ]
    assert users == ["sia_core/host/retrying.py"]
