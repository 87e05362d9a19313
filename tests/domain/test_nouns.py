"""Nouns: content addresses, records that survive JSON, verdict rules."""

import math

import pytest

from sia_core.domain.errors import HarnessError, SiaError, TaskError, UsageError
from sia_core.domain.harness import MAX_BYTES, Harness
from sia_core.domain.hashing import canonical_json, derive_seed, digest_files, digest_json
from sia_core.domain.rollout import Failure, Rollout, Turn, Unit, Verdict

UNIT = Unit("task", "harness", "policy", None, "train", "p1", 7)
TURN = Turn("choose", "prompt", "b", None, 1.0, (1, 2), (3, 4), (-0.5, 0.0), ((3, 5), (4,)), "stop", 0.25)


def test_digest_does_not_depend_on_order() -> None:
    assert digest_json({"a": 1, "b": [2]}) == digest_json({"b": [2], "a": 1})
    assert digest_files({"x": b"1", "y": b"2"}) == digest_files({"y": b"2", "x": b"1"})
    assert digest_files({"x": b"12", "y": b""}) != digest_files({"x": b"1", "y": b"2"})


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_canonical_json_refuses_what_json_has_not(value: float) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical_json({"x": value})


def test_known_digest_stays() -> None:
    # A changed digest would orphan every stored run.
    assert digest_json({"a": 1}) == "015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862"


def test_seed_depends_on_every_part() -> None:
    seeds = {
        derive_seed(0, "train", 1),
        derive_seed(1, "train", 1),
        derive_seed(0, "gate", 1),
        derive_seed(0, "train", 11),
    }
    assert len(seeds) == 4
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize(
    "change",
    [
        {"task": "x"},
        {"harness": "x"},
        {"policy": "x"},
        {"adapter": "x"},
        {"problem": "x"},
        {"seed": 8},
        {"split": "gate"},
    ],
)
def test_unit_key_depends_on_every_field(change: dict[str, object]) -> None:
    from dataclasses import replace

    assert replace(UNIT, **change).key != UNIT.key  # type: ignore[arg-type]


def test_blame_decides_the_score() -> None:
    assert Rollout(UNIT, verdict=Verdict(0.7)).score == 0.7
    assert Rollout(UNIT, failure=Failure("timeout", "")).score == 0.0
    assert Rollout(UNIT, failure=Failure("worker", "")).score is None


def test_only_recorded_turns_can_be_trained_on() -> None:
    from dataclasses import replace

    assert Rollout(UNIT, (TURN,), verdict=Verdict(1.0)).trainable
    assert not Rollout(UNIT, (replace(TURN, logprobs=None),), verdict=Verdict(1.0)).trainable
    assert not Rollout(UNIT, (), verdict=Verdict(1.0)).trainable
    assert not Rollout(UNIT, (TURN,), failure=Failure("sandbox", "")).trainable


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_verdicts_are_finite(bad: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        Verdict(bad)
    with pytest.raises(ValueError, match="finite"):
        Verdict(0.0, metrics={"mse": bad})


FILES = {
    "harness.toml": b'name = "h"\n# kept\n[knobs.n]\nvalue = 1\nrange = [1, 4]\n'
    b'[knobs.m]\nvalue = "a"\noptions = ["a", "b"]\n',
    "agent.py": b"async def solve(problem, ctx): ...\n",
}


def test_moving_a_knob_makes_a_new_harness_and_keeps_comments() -> None:
    harness = Harness.from_files(FILES)
    child = harness.with_knobs({"n": 3, "m": "b"})
    assert child.knobs == {"n": 3, "m": "b"}
    assert harness.knobs == {"n": 1, "m": "a"}
    assert child.digest != harness.digest
    assert b"# kept" in child.files["harness.toml"]
    assert child.with_knobs({"n": 1, "m": "a"}).digest == harness.digest


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"n": 5}, "not within 1..4"),
        ({"n": 1.5}, "not of type int"),
        ({"n": True}, "not of type int"),
        ({"m": "c"}, "not one of"),
        ({"k": 1}, "no knob 'k'"),
    ],
)
def test_wrong_knobs_are_refused(knobs: dict[str, object], words: str) -> None:
    with pytest.raises(HarnessError, match=words):
        Harness.from_files(FILES).with_knobs(knobs)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({**FILES, "harness.toml": b"name = "}, "not TOML"),
        ({**FILES, "harness.toml": b"entry = 'agent.py'"}, "name: is missing"),
        ({**FILES, "harness.toml": b"name = 'h'\nspeed = 1"}, "speed: there is no such field"),
        ({**FILES, "harness.toml": b"name = 'h'\nentry = 'x.py'"}, "'x.py', which is not there"),
        ({**FILES, "harness.toml": b"name = 'h'\n[knobs.k]\nvalue = 9\nrange = [1, 4]"}, "not within"),
        ({**FILES, "../x": b""}, "leaves the harness"),
        ({**FILES, "big": b"x" * MAX_BYTES}, "holds at most"),
    ],
)
def test_invalid_harnesses_state_the_error(files: dict[str, bytes], words: str) -> None:
    with pytest.raises(HarnessError, match=words):
        Harness.from_files(files)


def test_errors_survive_pickling_with_their_hint() -> None:
    import pickle

    error = pickle.loads(pickle.dumps(TaskError("broken", where="task.toml", hint="mend it")))
    assert isinstance(error, TaskError)
    assert str(error) == "task.toml: broken\n  next: mend it"


def test_exit_codes_are_distinct() -> None:
    codes = [kind.exit_code for kind in SiaError.__subclasses__()]
    assert len(set(codes)) == len(codes)
    assert UsageError.exit_code == 2
