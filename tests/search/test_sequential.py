"""The sequential test: agreement with exact tests, its stated error rate, what its bounds promise."""

from math import comb

import numpy as np
import pytest

from sia_core.search.sequential import EXACT, Floats, Reading, at_most, cut, read, subset_quantiles


def play(differences: Floats, alpha: float = 0.1, *, futile: bool = True) -> tuple[Reading, int]:
    """Play look by look, as a gate does. Return the last reading and the number of looks."""
    ends = cut(differences.size)
    blocks = np.split(differences, ends[:-1])
    for look in range(len(ends)):
        reading = read(blocks[: look + 1], [end / ends[-1] for end in ends[: look + 1]], alpha)
        if reading.crossed or (futile and reading.hopeless):
            break
    return reading, look + 1


def test_blocks_are_equal_and_never_tiny() -> None:
    assert cut(50) == [12, 25, 38, 50]
    assert cut(12) == [4, 8, 12]
    assert cut(7) == [7]
    assert cut(2) == [2]


@pytest.mark.parametrize(("differing", "wins"), [(10, 8), (10, 7), (13, 9), (15, 11)])
def test_binary_scores_get_the_exact_sign_test(differing: int, wins: int) -> None:
    """Problems without a difference change nothing, and the chance is the binomial chance."""
    values = np.array([1.0] * wins + [-1.0] * (differing - wins) + [0.0] * 20)
    reading = read([values], [1.0], 0.1)
    above = sum(comb(differing, k) for k in range(wins + 1, differing + 1)) / 2**differing
    at = comb(differing, wins) / 2**differing
    assert reading.chance == pytest.approx(above + at)
    assert reading.crossed == (above + at / 2 <= 0.1)


def test_sampled_flips_agree_with_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(3).normal(0.2, 1, EXACT - 2)
    exact = read([values], [1.0], 0.1)
    monkeypatch.setattr("sia_core.search.sequential.EXACT", 0)
    sampled = read([values], [1.0], 0.1)
    assert sampled.chance == pytest.approx(exact.chance, abs=0.015)
    assert sampled.bound == pytest.approx(exact.bound, abs=0.03)


def test_equal_scores_are_no_gain() -> None:
    for size in (4, 12, 50):
        reading, _ = play(np.zeros(size))
        assert not reading.crossed and reading.bound <= 0


def test_bound_is_above_0_exactly_when_the_test_crosses() -> None:
    rng = np.random.default_rng(0)
    crossed = 0
    for _ in range(150):
        values = np.round(rng.normal(0.1, 0.3, rng.integers(2, 40)), 1)
        reading, _ = play(values)
        assert (reading.bound > 0) == reading.crossed
        crossed += reading.crossed
    assert 10 < crossed < 140


@pytest.mark.parametrize("size", [12, 24])
def test_candidates_without_effect_cross_at_the_stated_rate_over_all_looks(size: int) -> None:
    rng = np.random.default_rng(1)
    trials = 400
    crossed = 0
    for _ in range(trials):
        rate = rng.uniform(0, 0.9, size)
        crossed += play((rng.binomial(4, rate) - rng.binomial(4, rate)) / 4)[0].crossed
    # 10 % is promised; 3 standard errors of 400 trials are 4.5 points. bench/gate.py has the long runs.
    assert 0.055 < crossed / trials < 0.145


def test_looking_without_spending_would_promote_too_many() -> None:
    """The control of the test above: a test at the full rate at each look promotes too many."""
    rng = np.random.default_rng(2)
    naive = sum(
        any(read([values[:end]], [1.0], 0.1).crossed for end in cut(24)) for values in rng.normal(0, 1, (300, 24))
    )
    assert naive / 300 > 0.16


def test_clear_gain_and_a_clear_loss_end_at_the_first_looks() -> None:
    assert play(np.full(48, 0.3))[1] == 1
    loss, looks = play(np.full(48, -0.3))
    assert (loss.crossed, loss.hopeless, looks) == (False, True, 1)


def test_limits_cover_the_mean_as_often_as_they_say() -> None:
    rng = np.random.default_rng(4)
    inside = 0
    for _ in range(400):
        low, high = subset_quantiles(rng.normal(0.5, 1, 8), [0.05, 0.95])
        inside += low <= 0.5 <= high
    assert 0.85 < inside / 400 < 0.95


def test_few_values_give_no_false_bound() -> None:
    assert subset_quantiles(np.array([0.3, 0.5]), [0.1]) == [-0.5]


@pytest.mark.parametrize("margin", [0.001, 0.0085, 0.02])
def test_ties_behind_a_small_margin_are_not_hopeless_at_the_first_look(margin: float) -> None:
    ties = np.full(12, -margin)
    assert read([ties], [0.25], 0.1).hopeless
    assert not read([ties], [0.25], 0.1, unseen=0.29).hopeless
    assert read([np.full(12, -0.3)], [0.25], 0.1, unseen=0.29).hopeless


def test_unseen_difference_changes_the_prospect_of_candidates_behind_alone() -> None:
    rng = np.random.default_rng(5)
    behind = 0
    for _ in range(100):
        values = rng.normal(0, 0.2, 12)
        plain, floored = read([values], [0.5], 0.1), read([values], [0.5], 0.1, unseen=0.5)
        assert (plain.crossed, plain.chance, plain.level, plain.bound) == (
            floored.crossed,
            floored.chance,
            floored.level,
            floored.bound,
        )
        behind += floored.prospect > plain.prospect
        assert floored.prospect == plain.prospect if values.sum() >= 0 else floored.prospect > plain.prospect
    assert 30 < behind < 70


def test_upper_limit_of_equal_differences_has_a_width_that_falls_with_their_number() -> None:
    few, many = (at_most(np.full(size, -0.02), 0.95, 0.29) for size in (6, 24))
    assert few > many > 0 > at_most(np.full(6, -0.3), 0.95, 0.29)
    assert at_most(np.full(6, -0.02), 0.95, 0.0) == pytest.approx(-0.02)
