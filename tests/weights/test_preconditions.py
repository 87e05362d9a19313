"""Test which algorithms are refused and why, which are suggested, and when rounds stop."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sia_core.domain.rollout import Rollout
from sia_core.weights.algorithms import ALGORITHMS
from sia_core.weights.preconditions import refuse, suggest
from sia_core.weights.spec import UpdateSpec
from sia_core.weights.stopping import best_round, stop_reason
from tests.factories import make_rollout

SPEC = UpdateSpec(None, 4, 2, 0.01, 4, 1.0, seed=7)


def batch(*groups: list[float], turns: int = 1, steps: bool = False, logprobs: bool = True) -> list[Rollout]:
    """Rollouts of problems a, b, ... with these scores."""
    found = []
    for problem, scores in zip("abcdefgh", groups, strict=False):
        for seed, score in enumerate(scores):
            one = make_rollout(problem, seed, score)
            turn = one.turns[0] if logprobs else replace(one.turns[0], logprobs=None)
            verdict = one.verdict
            if steps and verdict is not None:
                verdict = replace(verdict, metrics={"step/0": score / 2})
            found.append(replace(one, turns=(turn,) * turns, verdict=verdict))
    return found


MIXED = batch([0, 1, 0, 1, 1, 0], [0.2, 0.8, 0.5, 0.1, 0, 1], [0, 0, 1, 0, 1, 0])
SKEWED = batch([0.0] * 14 + [0.2, 0.9])


@pytest.mark.parametrize("algorithm", ["grpo", "dr_grpo", "rloo", "reinforce_pp", "best_of_n", "dpo", "kto"])
def test_mixed_batch_serves_most_algorithms(algorithm: str) -> None:
    assert refuse(MIXED, algorithm, 1.0) is None


@pytest.mark.parametrize(
    ("rollouts", "algorithm", "words"),
    [
        (MIXED, "nonsense", "no algorithm nonsense"),
        (batch([0, 1]), "dr_grpo", "1 groups"),
        (batch([1], [0], [1]), "grpo", "1.0 rollouts per problem"),
        (batch([0, 0], [1, 1]), "dr_grpo", "all 2 groups are constant"),
        (batch([0.5], [0.5], turns=5), "ppo", "nothing to tell apart"),
        (MIXED, "ppo", "no rewards of single turns"),
        (batch(*[[0.0] * 15 + [1.0]] * 5), "entropic", "5 problems"),
        (batch([0.0, 1.0] * 8), "entropic", "skew is 0.00"),
        (batch([0.0] * 7 + [1.0]), "entropic", "8.0 rollouts per problem"),
        (batch([0, 1], [0, 1], logprobs=False), "dr_grpo", "best_of_n, dpo, kto do without"),
        (batch([0, 0], [1, 1]), "dpo", "constant"),
        (batch([0, 0], [1, 1]), "kto", "constant"),
        (batch([1], [1]), "kto", "nothing to tell apart"),
    ],
)
def test_refusals_state_the_reason(rollouts: list[Rollout], algorithm: str, words: str) -> None:
    assert words in (refuse(rollouts, algorithm, 1.0) or "")


def test_thresholds_and_margins_are_part_of_the_question() -> None:
    assert "margin" in (refuse(MIXED, "dpo", 1.0, margin=2.0) or "")
    assert "one side" in (refuse(MIXED, "kto", 1.0, threshold=2.0) or "")
    assert "nothing to clone" in (refuse(MIXED, "best_of_n", 1.0, threshold=2.0) or "")


@pytest.mark.parametrize(
    ("rollouts", "expected"),
    [
        (MIXED, "dr_grpo"),
        (SKEWED, "entropic"),
        (batch([0, 1, 0.5], [0, 1, 0.2], steps=True), "ppo"),
        (batch([0.0] * 20 + [1.0], *[[0.0] * 21] * 5), "best_of_n"),
        (batch([1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1]), "reinforce_pp"),
        (batch([0, 1], [1, 0], [0, 0]), "rloo"),
        (batch([0, 1, 0, 1, 1, 0]), "rloo"),
        (batch([0, 1], [0, 1], logprobs=False), "dpo"),
        (batch([0], [1], [0], [1]), "kto"),
        (batch([0, 0], [1, 1]), None),
        (batch([1, 1], [1, 1]), None),
        ([make_rollout(p, s, s, trainable=False) for p in "ab" for s in range(2)], None),
        ([], None),
    ],
)
def test_suggested_algorithm_fits_the_batch(rollouts: list[Rollout], expected: str | None) -> None:
    algorithm, reason = suggest(rollouts)
    assert algorithm == expected
    assert reason


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from([0.0, 0.1, 0.5, 1.0]), min_size=1, max_size=18), max_size=6),
    st.booleans(),
    st.booleans(),
    st.integers(1, 5),
)
def test_suggested_algorithm_is_never_refused(
    scores: list[list[float]], steps: bool, logprobs: bool, turns: int
) -> None:
    rollouts = batch(*scores, steps=steps, logprobs=logprobs, turns=turns)
    algorithm, _ = suggest(rollouts)
    if algorithm is not None:
        assert refuse(rollouts, algorithm, 1.0) is None


def test_every_algorithm_says_where_it_comes_from_and_fits() -> None:
    for name, algorithm in ALGORITHMS.items():
        assert "arXiv" in algorithm.source, name
        assert len(algorithm.fits) < 130, name
        assert replace(SPEC, algorithm=name, **algorithm.defaults).id != SPEC.id or not algorithm.defaults


def test_specs_are_addressed_by_content() -> None:
    assert SPEC.id == replace(SPEC).id
    assert SPEC.id != replace(SPEC, batch="0" * 64).id
    assert len({replace(SPEC, algorithm=name).id for name in ALGORITHMS}) == len(ALGORITHMS)


def steps(reward: float, kl: float = 0.01, entropy: float = 2.0, error: float = 0.02) -> list[dict[str, float]]:
    return [{"reward": reward, "reward_error": error, "kl": kl, "entropy": entropy}]


def test_rounds_continue_while_nothing_calls_for_a_stop() -> None:
    history = [steps(0.3), steps(0.4), steps(0.39)]
    assert stop_reason([], SPEC) is None
    assert stop_reason(history, SPEC) is None
    assert best_round(history, SPEC) == 3


@pytest.mark.parametrize(
    ("history", "words", "best"),
    [
        ([steps(0.3), steps(0.5), steps(0.3)], "reward fell from 0.5 to 0.3", 1),
        ([steps(0.5), steps(0.3)], "reward fell from 0.5 to 0.3", 0),
        ([steps(0.3), steps(0.5, kl=1.5), steps(0.6, kl=1.0)], "KL adds up to 2.51", 2),
        ([steps(0.3), steps(0.5), steps(0.6, entropy=0.1)], "entropy fell from 2 to 0.1", 2),
        ([steps(0.3), steps(0.5), []], "every group was constant", 3),
    ],
)
def test_rounds_stop_and_the_best_is_kept(history: list[list[dict[str, float]]], words: str, best: int) -> None:
    assert words in (stop_reason(history, SPEC) or "")
    assert best_round(history, SPEC) == best
