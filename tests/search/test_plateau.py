"""A plateau is concluded from enough tries of every lever whose gains are surely small, and from nothing less."""

import json
from dataclasses import replace

import pytest

from sia_core.domain.json_data import write
from sia_core.domain.lineage import Node
from sia_core.search.plateau import Plateau, find_plateau, tired
from tests.search.test_lineage import SEED, child


def pull(index: int, gain: float, lever: str = "harness", *, promoted: bool = False, width: float = 0.01) -> Node:
    return replace(child(index, gain, promoted=promoted, width=width), lever=lever, generation=index)


def plateau(nodes: list[Node], levers: tuple[str, ...] = ("harness", "weights"), share: float = 0.02) -> Plateau:
    return find_plateau(nodes, levers, share=share, confidence=0.9)


FLAT = [SEED, pull(1, 0.001), pull(2, -0.002, "weights"), pull(3, 0.0)]


def test_small_sure_gains_of_all_levers_are_a_plateau() -> None:
    found = plateau(FLAT)
    assert found.reached
    assert found.threshold == pytest.approx(0.02 * 0.5)
    assert found.mean < found.upper < found.threshold
    assert "3 tries since the last promotion gained -0.0003 on average" in str(found)
    json.dumps(write(found), allow_nan=False)


@pytest.mark.parametrize(
    "nodes",
    [
        [SEED],
        FLAT[:3],
        [SEED, pull(1, 0.0), pull(2, 0.0), pull(3, 0.0)],  # weights not tried
        [SEED, pull(1, 0.0, width=0.3), pull(2, 0.0, "weights", width=0.3), pull(3, 0.0, width=0.3)],  # not known
        [*FLAT[:3], pull(3, 0.1, promoted=True)],
        [*FLAT[:2], pull(2, 0.1, "weights", promoted=True), pull(3, 0.0)],
    ],
)
def test_anything_less_is_no_plateau(nodes: list[Node]) -> None:
    found = plateau(nodes)
    assert not found.reached
    json.dumps(write(found), allow_nan=False)


def test_share_of_zero_never_ends_a_run() -> None:
    assert not plateau([SEED, pull(1, -0.1), pull(2, -0.1, "weights"), pull(3, -0.1)], share=0.0).reached


def test_failures_count_and_void_trials_do_not() -> None:
    failed = [replace(pull(at, 0.0), gate=None, failure="static: x") for at in (1, 2)]
    assert plateau([SEED, *failed, FLAT[2]]).tries == 3
    assert plateau([SEED, child(1, 0.0, void=True), FLAT[2]]).tries == 1


def test_plateau_of_a_lever_leaves_the_other_usable() -> None:
    nodes = [SEED, pull(1, -0.01), pull(2, -0.02)]
    assert tired(nodes, "harness", share=0.02, confidence=0.9)
    assert not tired(nodes, "weights", share=0.02, confidence=0.9)
    assert tired([SEED, pull(1, -0.01, "both"), pull(2, -0.02, "both")], "weights", share=0.02, confidence=0.9)
