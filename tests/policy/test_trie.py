"""The tokens that may follow a prefix are found without recursion."""

import pytest

from sia_core.domain.errors import PolicyError
from sia_core.policy.trie import branches, keep, next_tokens

END = 0


def test_option_that_begins_another_branches_at_its_end() -> None:
    assert branches([(1, END), (1, 2, END), (1, 2, 3, END), (4, END)]) == {
        (): (1, 4),
        (1,): (END, 2),
        (1, 2): (END, 3),
    }


def test_shared_beginning_of_all_options_is_no_branch() -> None:
    assert branches([(5, 6, 7, END), (5, 6, 8, END)]) == {(5, 6): (7, 8)}
    assert branches([(5, 6, END)]) == {}


def test_tokens_follow_in_the_order_of_the_options() -> None:
    assert next_tokens([(9, END), (1, END), (9, 2, END)], 0) == (9, 1)
    assert keep([(9, END), (1, END), (9, 2, END)], 0, 9) == [(9, END), (9, 2, END)]


def test_options_may_be_as_long_as_messages() -> None:
    shared = tuple(range(1, 3000))
    assert branches([(*shared, 7, END), (*shared, 8, END)]) == {shared: (7, 8)}


def test_options_with_the_same_tokens_are_refused() -> None:
    with pytest.raises(PolicyError, match="same tokens"):
        branches([(1, END), (1, END)])
