"""The parent, the rival and the leading sibling are chosen from the nodes alone."""

import pytest

from sia_core.domain.candidate import Candidate
from sia_core.domain.errors import UsageError
from sia_core.domain.lineage import Against, GateVerdict, Node, champion
from sia_core.domain.stats import Estimate, Gain
from sia_core.search.lineage import (
    best_earlier,
    choose_best,
    choose_puct,
    parent_policy,
    puct_scores,
    rank,
    rival,
    valid,
    values,
)

SIDE = Estimate(0.5, 0.4, 0.6, 12, 48)
SEED = Node(0, None, Candidate("h0"), "seed", True)


def child(
    index: int,
    gain: float,
    *,
    parent: int = 0,
    promoted: bool = False,
    width: float = 0.02,
    token_ratio: float = 1.0,
    front: float = 0.5,
    against: Against | None = None,
    void: bool = False,
) -> Node:
    gate = GateVerdict(
        SIDE,
        SIDE,
        Gain(gain, gain - width, gain - width, gain + width, 12),
        promoted,
        "",
        "void" if void else "promoted" if promoted else "undecided",
        token_ratio=token_ratio,
        child_front=front,
        parent_front=0.5,
        against=against,
    )
    return Node(index, parent, Candidate(f"h{index}"), "harness", promoted, gate)


def test_nodes_without_a_verdict_are_no_parents_but_stay() -> None:
    failed = Node(1, 0, Candidate("h0"), "harness", False, failure="static: x")
    nodes = [SEED, failed, child(2, 0.1, void=True), child(3, -0.1)]
    assert [node.index for node in valid(nodes)] == [0, 3]


def test_values_add_up_along_a_branch_and_noise_is_shrunk() -> None:
    sure = [SEED, child(1, 0.2, promoted=True, width=0.01), child(2, 0.1, parent=1, width=0.01)]
    assert values(sure, 0.9)[2] == pytest.approx(0.3, rel=0.01)
    noisy = [SEED, child(1, 0.2, promoted=True, width=0.01), child(2, 0.1, parent=1, width=1.0)]
    assert values(noisy, 0.9)[2] == pytest.approx(0.2, abs=0.02)
    chance = [SEED, child(1, 0.02, width=0.1), child(2, -0.02, width=0.1)]
    assert set(values(chance, 0.9).values()) == {0.0}


def test_best_policy_takes_the_champion() -> None:
    nodes = [SEED, child(1, 0.1, promoted=True), child(2, 0.3)]
    assert choose_best(nodes, 0.9).node == 1


def test_puct_leaves_a_node_whose_children_disappoint() -> None:
    nodes = [SEED, child(1, 0.1, promoted=True), child(2, 0.08, parent=0)]
    assert choose_puct(nodes, 0.9).node == 1
    nodes += [child(index, -0.09, parent=1) for index in range(3, 9)]
    assert choose_puct(nodes, 0.9).node == 2


def test_puct_prefers_the_node_that_leads_on_more_problems() -> None:
    nodes = [SEED, child(1, 0.05, front=0.2), child(2, 0.05, front=0.9)]
    scores = puct_scores(nodes, 0.9)
    assert scores[2] > scores[1]


def test_seed_alone_leaves_no_choice() -> None:
    assert choose_puct([SEED], 0.9).node == choose_best([SEED], 0.9).node == 0


def test_unknown_search_policy_is_a_usage_error() -> None:
    assert parent_policy("puct") is choose_puct
    with pytest.raises(UsageError, match="unknown parent policy"):
        parent_policy("worst")


def test_best_earlier_node_moves_only_when_a_champion_is_confirmed() -> None:
    gain = Gain(0.1, 0.05, 0.05, 0.15, 12)
    first = child(1, 0.1, promoted=True)
    lucky = child(2, 0.1, parent=1, promoted=True, against=Against(0, gain, 0.01, True, -0.02))
    assert best_earlier([SEED, first, lucky]).index == 0
    confirmed = child(2, 0.1, parent=1, promoted=True, against=Against(0, gain, 0.01, True, 0.03))
    assert best_earlier([SEED, first, confirmed]).index == 1


def test_rival_is_the_best_earlier_node_or_for_other_branches_the_champion() -> None:
    first, second = child(1, 0.1, promoted=True), child(2, 0.1, parent=1, promoted=True)
    assert rival([SEED], SEED) is None
    assert rival([SEED, first], first) == SEED
    assert rival([SEED, first, second], second) == SEED
    assert rival([SEED, first, second], SEED) == second


def test_best_sibling_leads_and_among_equal_ones_the_cheapest() -> None:
    worse, costly = child(1, 0.05, promoted=True), child(2, 0.20, promoted=True, token_ratio=3.0)
    cheap, lost = child(3, 0.19, promoted=True, token_ratio=1.0), child(4, 0.5)
    assert [node.index for node in rank([worse, costly, cheap, lost])] == [4, 1, 2, 3]
    assert champion(rank([worse, costly, lost])).index == 2
    assert [node.index for node in rank([lost, child(5, -0.1)])] == [5, 4]
