"""Turns are merged into rows on exact prefixes only, and each sampled token is trained once."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sia_core.domain.rollout import Rollout, Turn, Unit, Verdict
from sia_core.weights.groups import batch_digest, step_rewards
from sia_core.weights.rows import make_batch, merge_turns

Ids = tuple[int, ...]


def turn(prompt: Ids, output: Ids, allowed: tuple[Ids | None, ...] | None = None) -> Turn:
    return Turn("chat", "", "", None, 1.0, prompt, output, tuple(-0.5 for _ in output), allowed)


def rollout(turns: tuple[Turn, ...], seed: int, score: float, metrics: dict[str, float] | None = None) -> Rollout:
    unit = Unit("t", "h", "p", None, "train", "p0", seed)
    return Rollout(unit, turns, {}, Verdict(score, metrics=metrics or {}))


GROWING = (turn((1, 2), (3, 4)), turn((1, 2, 3, 4, 90, 91), (5,)))
FORKED = (turn((1, 2), (3, 4)), turn((1, 2, 3, 7, 90), (5,)), turn((1, 2, 3, 7, 90, 5, 91), (6, 8)))


def trained(turns: tuple[Turn, ...]) -> list[tuple[Ids, int]]:
    """Context and token of every trained choice."""
    return [(row.ids[: token.position], row.ids[token.position]) for row in merge_turns(turns) for token in row.tokens]


def test_turn_joins_the_row_that_begins_its_prompt() -> None:
    (row,) = merge_turns(GROWING)
    assert row.ids == (1, 2, 3, 4, 90, 91, 5)
    assert [token.position for token in row.tokens] == [2, 3, 6]
    assert [token.turn for token in row.tokens] == [0, 0, 1]


def test_turn_with_a_changed_history_starts_a_row() -> None:
    rows = merge_turns(FORKED)
    assert [row.ids for row in rows] == [(1, 2, 3, 4), (1, 2, 3, 7, 90, 5, 91, 6, 8)]
    # 3 was sampled once and is trained once: in the second row it is context.
    assert trained(FORKED) == [
        ((1, 2), 3),
        ((1, 2, 3), 4),
        ((1, 2, 3, 7, 90), 5),
        ((1, 2, 3, 7, 90, 5, 91), 6),
        ((1, 2, 3, 7, 90, 5, 91, 6), 8),
    ]


def test_tool_tokens_and_forced_tokens_are_never_trained() -> None:
    turns = (turn((1,), (2, 3), ((2, 9), (3,))), turn((1, 2, 3, 70, 71), (4,), (None,)))
    assert trained(turns) == [((1,), 2), ((1, 2, 3, 70, 71), 4)]
    batch = make_batch([rollout(turns, 0, 1.0), rollout(turns, 1, 0.0)], "dr_grpo")
    assert {choice.token for choice in batch.choices} == {2, 4}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(0, 3), min_size=1, max_size=6),
            st.lists(st.integers(0, 3), min_size=1, max_size=4),
            st.booleans(),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_every_sampled_token_is_trained_once_in_its_own_context(drawn: list[tuple[list[int], list[int], bool]]) -> None:
    turns: list[Turn] = []
    for prompt, output, goes_on in drawn:
        before = (*(turns[-1].prompt_ids or ()), *(turns[-1].output_ids or ())) if turns and goes_on else ()
        turns.append(turn((*before, *prompt), tuple(output)))
    expected = [
        ((*(one.prompt_ids or ()), *(one.output_ids or ())[:at]), token)
        for one in turns
        for at, token in enumerate(one.output_ids or ())
    ]
    assert Counter(trained(tuple(turns))) == Counter(expected)
    batch = make_batch([rollout(tuple(turns), 0, 1.0), rollout(tuple(turns), 1, 0.0)], "dr_grpo")
    read = [(batch.sequences[c.sequence][: c.position + 1], c.token) for c in batch.choices if c.rollout == 0]
    assert Counter(read) == Counter(expected)


@pytest.mark.parametrize(
    ("algorithm", "totals"),
    [("reinforce_pp", [0.5, 0.5]), ("dr_grpo", [1.5, 2.5]), ("grpo", [3 / 8, 5 / 8])],
)
def test_token_weights_add_up_by_algorithm(algorithm: str, totals: list[float]) -> None:
    batch = make_batch([rollout(GROWING, 0, 0.0), rollout(FORKED, 1, 1.0)], algorithm)
    assert (batch.rows, batch.rollouts) == (3, 2)
    weights = Counter[int]()
    for choice in batch.choices:
        weights[choice.rollout] += choice.weight  # type: ignore[assignment]
    # In the order of unit keys; the rollout with 3 tokens is GROWING.
    assert sorted(weights.values()) == pytest.approx(totals)


def test_advantage_belongs_to_all_rows_of_a_rollout() -> None:
    batch = make_batch([rollout(GROWING, 0, 0.0), rollout(FORKED, 1, 1.0)], "dr_grpo")
    of = {choice.rollout: set[float]() for choice in batch.choices}
    for choice in batch.choices:
        of[choice.rollout].add(choice.advantage)
    assert sorted(map(sorted, of.values())) == [[-0.5], [0.5]]


def test_step_rewards_add_up_to_the_score_and_fall_on_the_last_token_of_their_turn() -> None:
    one = rollout(FORKED, 0, 1.0, {"step/0": 0.25, "step/1": -0.5})
    assert step_rewards(one) == [0.25, -0.5, 1.25]
    batch = make_batch([one, rollout(FORKED, 1, 0.0)], "ppo")
    rewards = [[c.reward for c in batch.choices if c.rollout == number] for number in range(2)]
    assert sorted(rewards) == [[0.0] * 5, [0.0, 0.25, -0.5, 0.0, 1.25]]


def test_turn_without_a_choice_credits_the_one_before() -> None:
    turns = (turn((1,), (2,), ((2, 3),)), turn((1, 2, 9), (4,), ((4,),)))
    batch = make_batch([rollout(turns, 0, 1.0), rollout(turns, 1, 0.0)], "ppo")
    assert sorted(choice.reward for choice in batch.choices) == [0.0, 1.0]


def test_best_of_n_reads_the_winners_only_and_dpo_the_pairs() -> None:
    rollouts = [rollout(GROWING, seed, score) for seed, score in enumerate([0.0, 1.0, 0.1, 0.4])]
    assert make_batch(rollouts, "best_of_n").rollouts == 1
    batch = make_batch(rollouts, "dpo", margin=0.2)
    assert batch.rollouts == 4
    assert len(batch.pairs) == 2
    assert make_batch(rollouts, "dpo", margin=0.5).pairs == ((0, 1),)
    labelled = make_batch(rollouts, "kto", threshold=0.4)
    assert sorted(labelled.good) == [False, False, True, True]


def test_rollouts_without_logprobs_serve_those_algorithms_that_need_none() -> None:
    bare = [
        replace(r, turns=tuple(replace(t, logprobs=None) for t in r.turns))
        for r in (rollout(GROWING, 0, 0.0), rollout(GROWING, 1, 1.0))
    ]
    assert make_batch(bare, "dr_grpo").untrainable == 2
    assert make_batch(bare, "dpo").rollouts == 2
    assert make_batch(bare, "best_of_n").rollouts == 1


def test_batch_digest_depends_on_all_that_training_reads() -> None:
    rollouts = [rollout(GROWING, 0, 0.0), rollout(FORKED, 1, 1.0)]
    assert batch_digest(rollouts) == batch_digest(rollouts[::-1])
    assert batch_digest(rollouts) == batch_digest([replace(r, seconds=9.0) for r in rollouts])
    assert batch_digest(rollouts) != batch_digest([rollouts[0], rollout(FORKED, 1, 0.9)])
    assert batch_digest(rollouts) != batch_digest([rollouts[0], rollout(GROWING, 1, 1.0)])
