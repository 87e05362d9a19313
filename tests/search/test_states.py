"""Rollouts begin from chosen earlier answers."""

import json
from dataclasses import replace

import pytest

from sia_core.domain.rollout import Rollout, Verdict
from sia_core.search.states import choose_states, state_of
from sia_core.weights.groups import make_groups
from tests.factories import make_rollout


def played(
    number: int, score: float, start: Rollout | None = None, adapter: str | None = None, **more: object
) -> Rollout:
    """A rollout that answered `number`, from the answer of another."""
    state = None if start is None else state_of(start)
    plain = make_rollout(seed=number)
    unit = replace(plain.unit, state=state, adapter=adapter)
    return replace(plain, unit=unit, answer={"n": number}, verdict=Verdict(score), failure=None)


def answers(states: list[str | None]) -> list[int | None]:
    return [None if state is None else json.loads(state)["answer"]["n"] for state in states]


def test_unknown_states_begin_from_the_start() -> None:
    assert choose_states([], 3) == [None]


def test_best_answer_is_begun_from_and_its_line_is_blocked() -> None:
    first = [played(1, 0.2), played(2, 0.9), played(3, 0.5)]
    # The beginning, from which 0.9 was reached, comes second; but every answer lies on its line.
    assert answers(choose_states(first, 3)) == [2, 3]
    later = [*first, played(4, 0.95, first[1], "a"), played(5, 0.1, first[1], "a")]
    assert answers(choose_states(later, 2)) == [4, 3]


def test_answer_begun_from_often_is_passed_over() -> None:
    good, fair = played(1, 0.6), played(2, 0.55)
    tried = [played(10 + n, 0.5, good, f"a{n}") for n in range(8)]
    # Eight groups from the better answer reached less than it had: the other is tried.
    assert answers(choose_states([good, fair, *tried], 1)) == [2]


def test_only_two_answers_of_a_state_are_kept_and_equal_ones_once() -> None:
    many = [played(n, n / 10) for n in range(1, 8)]
    copies = [replace(many[-1], unit=replace(many[-1].unit, seed=100 + n)) for n in range(3)]
    found = {answer for count in (1, 5) for answer in answers(choose_states([*many, *copies], count))}
    assert found <= {None, 6, 7} and len(answers(choose_states([*many, *copies], 9))) <= 2


def test_failed_and_invalid_answers_are_no_states() -> None:
    invalid = replace(played(1, 0.0), verdict=Verdict(0.0, valid=False))
    unanswered = replace(played(2, 0.0), answer=None)
    assert state_of(invalid) is None and state_of(unanswered) is None
    assert choose_states([invalid, unanswered], 2) == [None]


@pytest.mark.parametrize("order", [1, -1])
def test_order_of_the_rollouts_does_not_matter(order: int) -> None:
    first = [played(n, n / 10) for n in range(1, 4)]
    all_of_them = [*first, *(played(10 + n, 0.3 + n / 10, first[2]) for n in range(3))]
    assert choose_states(all_of_them[::order], 2) == choose_states(all_of_them, 2)


def test_unknown_start_counts_as_the_beginning() -> None:
    lost = played(1, 0.5)
    assert answers(choose_states([played(2, 0.7, lost)], 1)) == [2]


def test_state_is_part_of_a_unit_and_of_a_group() -> None:
    one, other = played(1, 0.5), played(2, 0.6)
    units = [played(3, 0.1).unit.key, played(3, 0.1, one).unit.key, played(3, 0.1, other).unit.key]
    assert len(set(units)) == 3
    assert "state" not in units[0]
    rollouts = [played(3, 0.1, one), played(4, 0.2, one), played(5, 0.3, other)]
    assert sorted(map(len, make_groups(rollouts))) == [1, 2]
