"""The predicted power of a gate: agreement with simulated gates, and what makes it smaller."""

from dataclasses import replace
from math import inf, sqrt

import numpy as np
import pytest

from sia_core.domain.stats import Scores
from sia_core.search.gate import Rules, Sides, growing, judge, unseen
from sia_core.search.power import CHANCE, Paths, detectable, power, spread_of_gates, spread_of_scores
from sia_core.search.sequential import Floats

RULES = Rules(rollouts=4, confidence=0.9)
TRIALS = 200


def scores(values: Floats) -> Scores:
    return {f"{at:02}": row.tolist() for at, row in enumerate(values)}


def promoted(gain: float, problems: int, noise: float) -> float:
    """Share of simulated gates, played look by look, that promote a child with this true gain."""
    rng, count = np.random.default_rng(5), 0
    for _ in range(TRIALS):
        sides = [scores(0.5 + own + rng.normal(0, noise, (problems, 4))) for own in (0.0, gain)]
        for played in growing(sorted(sides[0])):
            seen = [{name: side[name] for block in played for name in block} for side in sides]
            verdict = judge(Sides(seen[0], seen[1]), played, problems, RULES, intervals=False)
            if verdict.outcome != "open":
                break
        count += verdict.promoted
    return count / TRIALS


@pytest.mark.parametrize("problems", [8, 12, 32])
def test_detectable_gain_is_promoted_as_often_as_predicted(problems: int) -> None:
    gain = detectable(RULES, problems, 0.2 * sqrt(2 / 4), unseen=0.3)
    # 3 standard errors of TRIALS gates are 8.5 points.
    assert promoted(gain, problems, 0.2) == pytest.approx(CHANCE, abs=0.085)
    assert promoted(gain / 2, problems, 0.2) < 0.6


def test_power_without_a_gain_is_the_error_rate_less_what_futility_takes() -> None:
    paths = Paths.of(24)
    assert power(0.0, paths, 0.1, unseen=100.0) == pytest.approx(0.1, abs=0.005)
    assert power(0.0, paths, 0.1) < power(0.0, paths, 0.1, unseen=100.0)


def test_detectable_gain_grows_with_spread_siblings_and_margin_and_falls_with_problems() -> None:
    plain = detectable(RULES, 24, 0.2)
    assert detectable(RULES, 24, 0.4) == pytest.approx(2 * plain)
    assert detectable(replace(RULES, tries=4), 24, 0.2) > 1.2 * plain
    assert detectable(RULES, 24, 0.2, margin=0.01) == pytest.approx(plain + 0.01)
    assert detectable(RULES, 96, 0.2) == pytest.approx(plain / 2, rel=0.1)


def test_gate_too_small_to_promote_anything_detects_no_gain() -> None:
    """Two problems have four flips: the observed sum alone is half of a quarter, more than a tenth."""
    assert detectable(RULES, 2, 0.2) == inf


def test_spread_of_scores_is_that_of_paired_differences() -> None:
    rng = np.random.default_rng(0)
    level = rng.uniform(0, 1, (400, 1))
    found = spread_of_scores(scores(level + rng.normal(0, 0.3, (400, 4))), 4, 0.0)
    assert found == pytest.approx(0.3 * sqrt(2 / 4), rel=0.05)
    alone = spread_of_scores(scores(rng.normal(0, 0.3, (400, 1))), 1, 0.0)
    assert alone == pytest.approx(0.3 * sqrt(2), rel=0.1)


def test_equal_scores_are_no_proof_that_nothing_differs() -> None:
    same = {f"{at}": [0.5, 0.5] for at in range(10)}
    jump = unseen(0.0, same)
    assert spread_of_scores(same, 2, jump) == pytest.approx(jump * sqrt(2 / 12))
    assert spread_of_scores(same, 2, 0.0) == 0.0


def test_spread_of_gates_pools_their_errors_and_leaves_void_ones_out() -> None:
    rng = np.random.default_rng(1)
    sides = [scores(0.5 + rng.normal(0, 0.2, (40, 4))) for _ in range(2)]
    played = list(growing(sorted(sides[0])))[-1]
    verdict = judge(Sides(sides[0], sides[1]), played, 40, RULES)
    assert spread_of_gates([verdict, verdict], 0.0) == pytest.approx(verdict.error * sqrt(40), rel=0.03)
    assert spread_of_gates([replace(verdict, outcome="void")], 0.3) is None
