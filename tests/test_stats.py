"""Statistics: agreement with closed forms."""

import numpy as np
import pytest

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
