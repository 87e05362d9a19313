"""The gate's verdicts: better, undecided, futile, void, too costly, behind the best node."""

from collections.abc import Sequence

import numpy as np
import pytest

from sia_core.domain.json_data import read
from sia_core.domain.lineage import GateVerdict
from sia_core.domain.stats import Scores
from sia_core.search.gate import Rules, Sides, blocks_of, growing, judge, most_gain, sealed_gain, unseen

PROBLEMS = [f"p{number:02}" for number in range(12)]
RULES = Rules(rollouts=2, confidence=0.9)


def even(score: float, problems: Sequence[str] = PROBLEMS) -> Scores:
    """Scores around a mean, different on every problem."""
    spread = np.random.default_rng(0).uniform(-0.05, 0.05, (len(problems), 2))
    return {problem: (score + noise).tolist() for problem, noise in zip(problems, spread, strict=True)}


def whole(sides: Sides, rules: Rules = RULES) -> GateVerdict:
    return judge(sides, blocks_of(PROBLEMS), len(PROBLEMS), rules)


def test_clear_gain_is_promoted_and_a_tie_is_not() -> None:
    assert whole(Sides(even(0.2), even(0.6))).outcome == "promoted"
    tie = whole(Sides(even(0.2), even(0.2)))
    assert (tie.promoted, tie.outcome) == (False, "undecided")
    assert not whole(Sides(even(0.6), even(0.2))).promoted


def test_gate_ends_at_the_first_decisive_look_and_counts_looks() -> None:
    verdicts = [judge(Sides(even(0.2), even(0.1)), played, 12, RULES) for played in growing(PROBLEMS)]
    assert (verdicts[0].outcome, verdicts[0].looks, verdicts[0].most_looks) == ("futile", 1, 3)
    sides = Sides(even(0.2), {**even(0.2), **even(0.25, PROBLEMS[:4])})
    assert judge(sides, next(growing(PROBLEMS)), 12, RULES).outcome == "open"


def test_siblings_share_the_error_rate() -> None:
    child = {problem: [0.2 + 0.05 * ((at % 4) - 1)] * 2 for at, problem in enumerate(PROBLEMS)}
    sides = Sides({problem: [0.2, 0.2] for problem in PROBLEMS}, child)
    one, eight = (whole(sides, Rules(2, 0.9, tries)) for tries in (1, 8))
    assert one.promoted and not eight.promoted and one.gain.bound > 0 > eight.gain.bound
    assert "(0.1 over all)" in one.reason and "(0.0125 over all)" in eight.reason


def test_more_expensive_child_has_to_gain_more() -> None:
    sides = Sides(even(0.5), even(0.53), token_ratio=4.0)
    assert whole(sides).promoted
    costly = whole(sides, Rules(2, 0.9, gain_per_token_doubling=0.05))
    assert not costly.promoted and costly.margin == pytest.approx(2 * 0.05 * 0.5, rel=0.05)
    assert "4.0 times the tokens" in costly.reason
    assert whole(Sides(even(0.5), even(0.53), token_ratio=1.4), Rules(2, 0.9, gain_per_token_doubling=0.05)).promoted
    assert whole(Sides(even(0.5), even(0.7), token_ratio=4.0), Rules(2, 0.9, gain_per_token_doubling=0.05)).promoted


def test_better_than_the_parent_but_behind_the_best_node_is_not_promoted() -> None:
    behind = whole(Sides(even(0.4), even(0.45), best=even(0.6), best_node=3), Rules(2, 0.9, tolerance=0.02))
    assert (behind.outcome, behind.promoted) == ("behind", False)
    assert behind.against is not None and behind.against.node == 3 and behind.against.gain.mean < -0.1
    assert "not shown to be as good as node 3" in behind.reason
    level = whole(Sides(even(0.4), even(0.595), best=even(0.6), best_node=3), Rules(2, 0.9, tolerance=0.02))
    assert level.promoted and level.against is not None and level.against.parent_bound < 0


def test_champion_itself_has_to_be_beaten() -> None:
    sides = Sides(even(0.4), even(0.6), best=even(0.6), best_node=3, incumbent=True)
    assert whole(sides, Rules(2, 0.9, tolerance=0.5)).outcome == "behind"


def test_parent_that_beats_the_best_node_on_new_problems_is_confirmed() -> None:
    verdict = whole(Sides(even(0.5), even(0.6), best=even(0.4), best_node=0))
    assert verdict.promoted and verdict.against is not None and verdict.against.parent_bound > 0


def test_too_many_unscored_rollouts_void_the_trial() -> None:
    child = {problem: scores[:1] for problem, scores in even(0.9).items()}
    verdict = whole(Sides(even(0.2), child))
    assert (verdict.outcome, verdict.promoted, verdict.void) == ("void", False, True)
    assert verdict.reason == "void: 50% of the rollouts are unscored"
    assert whole(Sides(even(0.2), {})).void


def test_look_with_lost_rollouts_is_open_until_enough_are_scored() -> None:
    """No rollout of the first block is scored. Later 8 of 12 problems are too few, and 11 of 12 are enough."""
    assert judge(Sides(even(0.2), {}), next(growing(PROBLEMS)), 12, RULES).outcome == "open"
    assert whole(Sides(even(0.2), even(0.9, PROBLEMS[4:]))).void
    assert whole(Sides(even(0.2), even(0.9, PROBLEMS[1:]))).promoted


def test_sealed_gain_pairs_problems() -> None:
    gain = sealed_gain(even(0.2), {**even(0.5, PROBLEMS[:10]), "other": [1.0]}, 0.9)
    assert gain.problems == 10
    assert gain.mean == pytest.approx(0.3) == pytest.approx(gain.bound)
    with pytest.raises(ValueError, match="no problem"):
        sealed_gain(even(0.2), {"other": [1.0]}, 0.9)


def test_verdict_survives_the_record() -> None:
    from dataclasses import asdict

    verdict = whole(Sides(even(0.4), even(0.45), best=even(0.6), best_node=3))
    assert read(GateVerdict, asdict(verdict)) == verdict
    old = {name: asdict(verdict)[name] for name in ("parent", "child", "gain", "promoted", "reason")}
    assert read(GateVerdict, old).looks == 1


def test_ties_at_a_token_price_survive_the_first_look() -> None:
    """The margin of each tie is small beside what a solved problem would bring."""
    same = {problem: [float(at % 2)] * 2 for at, problem in enumerate(PROBLEMS)}
    sides = Sides(same, same, token_ratio=1.8)
    first = judge(sides, next(growing(PROBLEMS)), 12, Rules(2, 0.9, gain_per_token_doubling=0.02))
    assert (first.outcome, first.looks) == ("open", 1) and first.margin > 0
    lost = judge(Sides(same, {problem: [0.0, 0.0] for problem in PROBLEMS}), blocks_of(PROBLEMS)[:2], 12, RULES)
    assert lost.outcome == "futile"


def test_ties_within_the_tolerance_of_the_best_node_are_left_open() -> None:
    """The child is a little behind the best node on every problem, so more looks may still change the verdict."""
    best = {problem: [0.61, 0.61] for problem in PROBLEMS}
    parent, child = ({problem: [score] * 2 for problem in PROBLEMS} for score in (0.2, 0.6))
    first = judge(Sides(parent, child, best=best, best_node=3), [PROBLEMS], 48, RULES)
    assert first.outcome == "open" and "not shown to be as good as node 3" in first.reason


def test_unseen_difference_is_in_units_of_the_scores_above_the_floor() -> None:
    assert unseen(0.0, {"a": [0.0]}, {"a": [0.6, 1.2], "b": []}) == pytest.approx(1.2 / 12**0.5)
    assert unseen(-1.0, {"a": [1.0]}) == pytest.approx(2 / 12**0.5)
    assert unseen(0.0, {}) == 0.0


def test_upper_limit_of_equal_differences_keeps_a_width() -> None:
    parent = {problem: [0.5, 0.5] for problem in PROBLEMS[:6]}
    slightly, clearly = ({problem: [score] * 2 for problem in PROBLEMS[:6]} for score in (0.48, 0.1))
    mean, upper, problems = most_gain(parent, slightly, 0.95, 0.0)
    assert mean == pytest.approx(-0.02) and problems == 6 and upper > 0
    assert most_gain(parent, clearly, 0.95, 0.0)[1] < 0
    with pytest.raises(ValueError, match="no problem"):
        most_gain(parent, {"other": [1.0]}, 0.95, 0.0)
