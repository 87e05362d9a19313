"""The lever memory counts misses, blocks repeated moves and compares predictions with outcomes."""

from dataclasses import replace

import pytest

from sia_core.agents.memory import blocked, calibrate, chance, remember
from sia_core.domain.candidate import Candidate
from sia_core.domain.lineage import Decision, GateVerdict, Node
from sia_core.domain.stats import Estimate, Gain

SIDE = Estimate(0.5, 0.4, 0.6, 12, 48)
SEED = Node(0, None, Candidate("h0"), "seed", True)


def pulled(
    index: int,
    gain: float,
    *,
    promoted: bool = False,
    predicted: float = 0.1,
    outcome: str = "undecided",
    parent: int = 0,
) -> Node:
    gate = GateVerdict(SIDE, SIDE, Gain(gain, gain - 0.02, gain - 0.02, gain + 0.02, 12), promoted, "why", outcome)  # type: ignore[arg-type]
    decision = Decision("harness", parent, "r", "rules", predicted, knobs={"menu": index}, category="search")
    return Node(index, parent, Candidate(f"h{index}"), "harness", promoted, gate, decision, generation=index)


def test_chance_follows_outcomes_and_forgets_old_ones() -> None:
    assert chance([SEED], "harness", "search") == 0.5
    one = [SEED, pulled(1, 0.1, promoted=True)]
    assert chance(one, "harness", "search") == pytest.approx((1 + 0.9) / (2 + 0.9))
    later = [*one, replace(SEED, generation=20)]
    assert 0.5 < chance(later, "harness", "search") < 0.54
    assert chance(one, "weights", "search") == 0.5


def test_unpredicted_regression_counts_twice_and_void_trial_not_at_all() -> None:
    flat, worse, void = pulled(1, 0.0), pulled(1, -0.1), pulled(1, -0.1, outcome="void")
    foreseen = pulled(1, -0.1, predicted=-0.05)
    missed = {name: chance([SEED, node], "harness", "search") for name, node in {"flat": flat, "worse": worse}.items()}
    assert missed == pytest.approx({"flat": 1 / 2.9, "worse": 1 / (2 + 1.8)})
    assert chance([SEED, foreseen], "harness", "search") == missed["flat"]
    assert remember([SEED, void]) == []


def test_candidate_rejected_by_a_rung_keeps_its_prediction() -> None:
    fallen = replace(pulled(1, 0.0, predicted=0.3), gate=None, failure="minibatch: futile: gain -0.0552")
    (alone,) = remember([SEED, fallen])
    assert (alone.predicted, alone.observed, alone.gated) == (0.3, None, 0)
    assert "predicted +0.3, observed nothing: none reached the gate" in str(alone)
    (both,) = remember([SEED, fallen, pulled(2, 0.05, predicted=0.1)])
    assert both.predicted == pytest.approx(0.2)
    assert (both.observed, both.gated) == (0.05, 1)


def test_reverted_idea_waits_for_another_pair() -> None:
    lost = pulled(1, -0.1)
    nodes = [SEED, lost, pulled(2, 0.1, promoted=True)]
    assert lost.decision is not None
    assert "rolled back: why" in (blocked(nodes, replace(lost.decision, reason="other words")) or "")
    assert blocked(nodes, replace(lost.decision, knobs={"menu": 7})) is None
    assert blocked(nodes, replace(lost.decision, parent=2)) is None
    assert blocked([SEED, pulled(1, -0.1, outcome="void")], lost.decision) is None
    promoted = pulled(1, 0.1, promoted=True)
    assert promoted.decision is not None and blocked([SEED, promoted], promoted.decision) is None


def test_predictions_are_held_to_account() -> None:
    assert calibrate([SEED]) is None
    ranged = pulled(2, 0.06)
    assert ranged.decision is not None
    ranged = replace(ranged, decision=replace(ranged.decision, predicted_range=(0.05, 0.2)))
    told = {"fixes": 2, "fixes_right": 1, "risks": 0, "risks_right": 0, "played": 6, "better": 2, "worse": 1}
    found = calibrate([SEED, replace(pulled(1, -0.02), predicted=told), ranged])
    assert found is not None
    assert (found.decided, found.in_range) == (2, (1, 1))
    assert found.predicted == pytest.approx(0.1) and found.observed == pytest.approx(0.02)
    assert found.error == pytest.approx((0.12 + 0.04) / 2)
    assert str(found.fixes) == "1 of 2 (50%; of all problems 33%)"
    assert str(found.risks) == "none named"
    assert calibrate([SEED, ranged], "openai:m") is None
