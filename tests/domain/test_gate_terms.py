"""The text of the gate's terms states plan, detectable gain and the margins for more tokens."""

from dataclasses import replace
from math import inf

import pytest

from sia_core.domain.gate_terms import GateTerms, margin

TERMS = GateTerms(
    problems=12,
    rollouts=4,
    looks=3,
    confidence=0.9,
    tries=1,
    level=0.5,
    gain_per_token_doubling=0.02,
    tolerance=0.02,
    detectable=0.195,
)


def test_margin_at_each_ratio_is_price_for_each_doubling() -> None:
    assert margin(0.02, 0.5, 1.4) == 0.0
    assert margin(0.02, 0.5, 2.0) == pytest.approx(0.01)
    assert margin(0.02, 0.5, 4.0) == pytest.approx(0.02)
    assert margin(0.02, -0.5, 4.0) == 0.0


def test_terms_state_plan_detectable_gain_and_margins() -> None:
    told = str(TERMS)
    assert "12 fresh problems x 4 rollouts a side, with up to 3 looks, at 90% confidence; ties" in told
    assert "A true gain of about +0.195 is promoted with 80 % probability" in told
    assert "2.0% of the score for each doubling: 1.5x -> +0.0058, 2x -> +0.0100, 4x -> +0.0200" in told
    assert "best earlier node by 0.0100 at most" in told


def test_terms_without_price_or_with_siblings_say_so() -> None:
    assert "More tokens cost nothing at the gate." in str(replace(TERMS, gain_per_token_doubling=0.0))
    assert "at 90% confidence, shared by 4 siblings;" in str(replace(TERMS, tries=4))


def test_unknown_or_impossible_detection_is_stated() -> None:
    assert "is unknown: no rollout has scored" in str(replace(TERMS, detectable=None))
    assert "too few problems to promote any gain" in str(replace(TERMS, detectable=inf))
