"""The retry loop, by a clock that only moves when it is slept on."""

from typing import Any

import pytest

from sia_core.domain.errors import SiaError
from sia_core.policy.retry import Fault, Retry, parse_retry_after
from tests.clock import Clock

NOW = 1_000_000_000.0


def retry(clock: Clock, **limits: Any) -> Retry:
    return clock.drive(Retry(), **{"attempts": 5, "first_s": 1.0, "longest_s": 6.0, **limits})


def fail(_: float) -> str:
    raise ValueError("wire")


def passing(_: Exception) -> Fault:
    return Fault(SiaError("no answer"), again=True)


def test_waits_double_up_to_a_bound_and_attempts_end() -> None:
    clock = Clock()
    with pytest.raises(SiaError, match="no answer"):
        retry(clock).request(fail, passing)
    assert clock.slept == [1.0, 2.0, 4.0, 6.0]


def test_jitter_is_full() -> None:
    clock, ranges = Clock(), []

    def uniform(low: float, high: float) -> float:
        ranges.append((low, high))
        return low

    with pytest.raises(SiaError):
        retry(clock, attempts=3, first_s=0.5, uniform=uniform).request(fail, passing)
    assert ranges[:2] == [(0.0, 0.5), (0.0, 1.0)]


def test_server_sets_the_pause_within_bounds() -> None:
    clock = Clock()
    asked = iter([3.0, 600.0, 0.0, 1.0, 1.0])
    with pytest.raises(SiaError):
        retry(clock).request(fail, lambda _: Fault(SiaError("busy"), again=True, after_s=next(asked)))
    assert clock.slept == [3.0, 6.0, 0.0, 1.0]


def test_patience_ends_before_the_attempts_do() -> None:
    clock = Clock()

    def slow(timeout: float) -> str:
        clock.now += timeout
        raise ValueError("timed out")

    with pytest.raises(SiaError):
        retry(clock, attempts=100, timeout_s=30.0, total_s=100.0).request(slow, passing)
    assert clock.now <= 100.0


def test_request_that_may_have_been_paid_for_is_repeated_once_among_other_faults() -> None:
    clock = Clock()
    calls: list[float] = []
    paid = iter([False, True, False, True, False])

    def slow(timeout: float) -> str:
        calls.append(timeout)
        raise ValueError("lost")

    def judge(_: Exception) -> Fault:
        return Fault(SiaError("lost"), again=True, paid=next(paid))

    with pytest.raises(SiaError, match="lost"):
        retry(clock, repeats=1).request(slow, judge)
    assert len(calls) == 4


def test_paid_requests_are_repeated_as_others_without_a_limit_of_repeats() -> None:
    clock = Clock()
    with pytest.raises(SiaError):
        retry(clock).request(fail, lambda _: Fault(SiaError("lost"), again=True, paid=True))
    assert len(clock.slept) == 4


def test_every_attempt_of_an_agent_has_the_whole_limit_of_silence() -> None:
    clock = Clock()
    timeouts: list[float] = []

    def long(timeout: float) -> str:
        timeouts.append(timeout)
        clock.now += 10_000.0  # A long stream, which broke off.
        raise ValueError("lost")

    kept = clock.drive(Retry.of_agent(1200.0))
    with pytest.raises(SiaError):
        kept.request(long, lambda _: Fault(SiaError("lost"), again=True, paid=True))
    assert timeouts == [1200.0, 1200.0]


def test_permanent_fault_is_raised_immediately_and_without_context() -> None:
    clock = Clock()
    with pytest.raises(SiaError, match="refused") as raised:
        retry(clock).request(fail, lambda _: Fault(SiaError("refused")))
    assert not clock.slept
    assert raised.value.__context__ is None


def test_unclassified_exception_is_raised_unchanged() -> None:
    with pytest.raises(ValueError, match="wire"):
        retry(Clock()).request(fail, lambda _: None)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("7", 7.0),
        ("0.5", 0.5),
        ("-3", 0.0),
        ("Sun, 09 Sep 2001 01:46:50 GMT", 10.0),
        ("Sun, 09 Sep 2001 01:40:00 GMT", 0.0),
        ("soon", None),
        ("nan", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after_header_gives_seconds(text: str | None, seconds: float | None) -> None:
    assert parse_retry_after(text, NOW) == seconds
