"""Test the check for forgetting: sure losses are caught, chance and small losses are not."""

import numpy as np
import pytest

from sia_core.domain.stats import Scores
from sia_core.search.anchors import AnchorVerdict, judge_anchors

ABLE: Scores = {f"p{number}": [0.8, 0.9, 1.0, 0.7] for number in range(4)}


def judged(parent: Scores, child: Scores, tolerance: float = 0.02, seed: int = 0) -> AnchorVerdict:
    verdict = judge_anchors(parent, child, expected=16, tolerance=tolerance, confidence=0.9, seed=seed)
    assert verdict is not None
    return verdict


def test_collapse_counts_as_forgetting_and_is_stated_in_numbers() -> None:
    verdict = judged(ABLE, {problem: [0.1, 0.2, 0.1, 0.3] for problem in ABLE})
    assert verdict.forgotten
    assert verdict.loss.mean == pytest.approx(0.675)
    assert "0.8500 before and 0.1750 after on 4 anchor problems" in verdict.reason


def test_loss_within_the_tolerance_is_accepted() -> None:
    lower = {problem: [score - 0.3 for score in scores] for problem, scores in ABLE.items()}
    assert judged(ABLE, lower).forgotten
    assert not judged(ABLE, lower, tolerance=0.3).forgotten
    assert not judged(ABLE, ABLE).forgotten
    assert not judged(lower, ABLE).forgotten


def test_chance_alone_rejects_seldom() -> None:
    rng = np.random.default_rng(0)
    trials = 200
    rejected = 0
    for trial in range(trials):
        sides = [{f"p{at}": rng.binomial(1, 0.5, size=4).astype(float).tolist() for at in range(4)} for _ in "ab"]
        rejected += judged(sides[0], sides[1], seed=trial).forgotten
    # 10 % is meant, and few problems make a bootstrap bold; 3 standard errors of 200 trials are 6.4 points.
    assert rejected / trials < 0.164


@pytest.mark.parametrize("child", [{}, {"p0": [1.0] * 4}, {problem: [1.0] for problem in ABLE}])
def test_too_few_scored_rollouts_give_no_verdict(child: Scores) -> None:
    assert judge_anchors(ABLE, child, expected=16, tolerance=0.0, confidence=0.9, seed=0) is None
