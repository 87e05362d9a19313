"""Statistics: agreement with closed forms."""

import numpy as np
import pytest

from sia_core.domain.stats import estimate, paired_gain, within_share


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


def test_gain_of_a_single_problem_is_refused() -> None:
    with pytest.raises(ValueError, match="two problems"):
        paired_gain({"a": [0.0]}, {"a": [1.0]}, confidence=0.9)


def test_within_share_of_constant_groups_is_zero_and_of_pure_noise_is_high() -> None:
    rng = np.random.default_rng(0)
    constant = {f"p{number}": [float(level)] * 4 for number, level in enumerate(rng.random(12))}
    noise = {f"p{number}": list(rng.random(4)) for number in range(12)}
    assert within_share(constant) == 0.0
    assert (within_share(noise) or 0.0) > 0.7
    assert within_share({"p": [0.1, 0.2], "q": [0.3]}) is None


def test_within_share_recovers_known_components() -> None:
    rng = np.random.default_rng(1)
    scores = {str(number): list(rng.normal(rng.normal(0, 2), 1, 6)) for number in range(800)}
    assert within_share(scores) == pytest.approx(0.2, abs=0.02)


def test_estimate_states_its_number_of_problems() -> None:
    assert estimate({"p": [1.0, 0.0], "q": [1.0]}, confidence=0.9).basis.endswith("over 2 problems (3 rollouts)")
