"""Every advantage against hand-computed values."""

import math

import pytest

from sia_core.weights.advantages import (
    MAX_BETA,
    best_of_n,
    dr_grpo,
    entropic,
    entropic_beta,
    gae,
    grpo,
    reinforce_pp,
    rloo,
    whiten,
)


def test_dr_grpo_is_centred_and_not_scaled() -> None:
    assert dr_grpo([1.0, 0.0, 0.0, 0.0]) == [0.75, -0.25, -0.25, -0.25]


def test_grpo_divides_by_the_unbiased_deviation() -> None:
    assert grpo([1.0, 0.0, 0.0, 0.0]) == pytest.approx([0.75 / 0.5001, *[-0.25 / 0.5001] * 3])
    assert grpo([3.0]) == [0.0]


def test_rloo_leaves_one_out() -> None:
    assert rloo([3.0, 1.0, 2.0]) == pytest.approx([1.5, -1.5, 0.0])
    assert rloo([3.0]) == [0.0]


def test_reinforce_pp_whitens_over_the_batch() -> None:
    # Centred: 1, -1, 0, 0; their deviation is sqrt(1/2).
    found = reinforce_pp([[2.0, 0.0], [5.0, 5.0]])
    assert found[0] == pytest.approx([math.sqrt(2), -math.sqrt(2)])
    assert found[1] == [0.0, 0.0]


def test_entropic_single_winner_of_sixteen() -> None:
    scores = [1.0, *[0.0] * 15]
    beta = entropic_beta(scores)
    share = 1 / (1 + 15 * math.exp(-beta))
    rest = (1 - share) / 15
    assert share == pytest.approx(0.488, abs=1e-3)
    assert math.log(16) + share * math.log(share) + 15 * rest * math.log(rest) == pytest.approx(math.log(2))
    found = entropic(scores)
    assert found[0] == pytest.approx(math.exp(beta) - 1, rel=1e-6)
    assert found[0] == pytest.approx(13.3, abs=0.05)
    other = (1 + 14 * math.exp(-beta)) / 15
    assert found[1:] == pytest.approx([math.exp(-beta) / other - 1] * 15)
    assert abs(sum(found)) > 0.1  # Not centred, and not to be.


def test_entropic_saturates_where_most_tie_at_the_top() -> None:
    scores = [1.0] * 3 + [0.0]
    assert entropic_beta(scores) == MAX_BETA
    assert entropic(scores) == pytest.approx([3 / 2 - 1] * 3 + [-1.0])
    assert entropic([2.0, 2.0]) == [0.0, 0.0]


def test_entropic_does_not_change_with_the_scale_of_the_scores() -> None:
    scores = [0.1, 0.4, 0.2, 0.9, 0.3, 0.25]
    assert entropic([100 * score - 7 for score in scores]) == pytest.approx(entropic(scores), rel=1e-6)


def test_best_of_n_clones_the_best_above_the_mean() -> None:
    assert best_of_n([0.2, 0.9, 0.9, 0.1]) == [0, 1, 1, 0]
    assert best_of_n([1.0, 1.0, 1.0, 0.0]) == [1, 1, 1, 0]
    assert best_of_n([0.5, 0.5]) == [0, 0]
    assert best_of_n([0.2, 0.9], threshold=0.95) == [0, 0]


def test_gae_matches_values_by_hand() -> None:
    advantages, returns = gae([0.0, 1.0, 2.0], [0.5, 0.25, 1.0], 0.9, 0.8)
    last = 2.0 - 1.0
    middle = 1.0 + 0.9 * 1.0 - 0.25 + 0.72 * last
    first = 0.9 * 0.25 - 0.5 + 0.72 * middle
    assert advantages == pytest.approx([first, middle, last])
    assert returns == pytest.approx([first + 0.5, middle + 0.25, 2.0])


def test_gae_with_lambda_one_is_the_return_minus_the_value() -> None:
    advantages, returns = gae([1.0, 0.0, 4.0], [2.0, 3.0, 1.0], 1.0, 1.0)
    assert advantages == pytest.approx([3.0, 1.0, 3.0])
    assert returns == pytest.approx([5.0, 4.0, 4.0])


def test_whitening_centres_and_scales_advantages() -> None:
    assert whiten([1.0, 3.0]) == pytest.approx([-1, 1])
    assert whiten([2.0, 2.0]) == [0, 0]
