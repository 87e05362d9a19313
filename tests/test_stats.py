"""Statistics: agreement with closed forms, and the gate's stated error rate."""

import numpy as np
import pytest

from sia_core.search.gate import judge
from sia_core.stats import estimate, paired_gain


def test_estimate_weighs_problems_not_rollouts() -> None:
    result = estimate({"a": [1.0, 1.0, 1.0, 1.0], "b": [0.0]}, confidence=0.9)
    assert result.mean == 0.5
    assert (result.problems, result.rollouts) == (2, 5)


def test_interval_matches_the_normal_one_for_many_problems() -> None:
    values = np.random.default_rng(0).normal(size=400)
    result = estimate({f"p{i:03}": [value] for i, value in enumerate(values)}, confidence=0.9)
    half = 1.6449 * values.std() / np.sqrt(len(values))
    assert result.high - result.low == pytest.approx(2 * half, rel=0.08)
    assert result.low < values.mean() < result.high


def test_pairing_removes_what_problems_share() -> None:
    difficulty = np.random.default_rng(1).normal(size=20)
    parent = {f"p{i:02}": [d] for i, d in enumerate(difficulty)}
    child = {f"p{i:02}": [d + 0.1] for i, d in enumerate(difficulty)}
    gain = paired_gain(parent, child, confidence=0.9)
    assert gain.mean == pytest.approx(0.1)
    assert gain.low == pytest.approx(0.1)
    assert gain.high == pytest.approx(0.1)


def test_problems_without_a_pair_are_left_out() -> None:
    gain = paired_gain({"a": [0.0], "b": [0.0], "c": [0.0]}, {"a": [1.0], "b": [1.0], "d": [9.0]}, confidence=0.9)
    assert (gain.mean, gain.problems) == (1.0, 2)


def test_one_problem_is_not_enough() -> None:
    with pytest.raises(ValueError, match="two problems"):
        paired_gain({"a": [0.0]}, {"a": [1.0]}, confidence=0.9)


def test_no_ops_are_promoted_at_about_the_stated_rate() -> None:
    rng = np.random.default_rng(2)
    promoted = 0
    trials = 200
    for trial in range(trials):
        rate = rng.uniform(0.2, 0.8, size=40)
        sides = [
            {f"p{i:02}": rng.binomial(1, p, size=4).astype(float).tolist() for i, p in enumerate(rate)} for _ in "ab"
        ]
        promoted += judge(sides[0], sides[1], expected=160, confidence=0.9, seed=trial).promoted
    # 10 % is promised; 3 standard errors of 200 trials are 6.4 points.
    assert promoted / trials < 0.164


def test_a_clear_gain_is_promoted_and_a_tie_is_not() -> None:
    parent = {f"p{i}": [0.2, 0.3] for i in range(10)}
    child = {f"p{i}": [0.6, 0.7] for i in range(10)}
    assert judge(parent, child, expected=20, confidence=0.9, seed=0).promoted
    assert not judge(parent, parent, expected=20, confidence=0.9, seed=0).promoted
    assert not judge(child, parent, expected=20, confidence=0.9, seed=0).promoted


def test_a_trial_with_many_unscored_rollouts_is_void() -> None:
    parent = {f"p{i}": [0.2] for i in range(10)}
    child = {f"p{i}": [0.9] for i in range(10)}
    verdict = judge(parent, child, expected=20, confidence=0.9, seed=0)
    assert not verdict.promoted
    assert verdict.reason.startswith("void")
