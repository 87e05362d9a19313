"""`alternate` takes the levers in turn."""

from dataclasses import replace

import pytest

from sia_core.agents.registry import check_agent
from sia_core.agents.rules import AlternateAgent
from sia_core.domain.config import Lever
from tests.agents.sources import MemorySource
from tests.agents.test_rules import BOTH


def test_alternate_agent_pulls_levers_in_turn() -> None:
    check_agent("alternate", None)
    levers = [
        AlternateAgent().decide(replace(BOTH, generation=generation), MemorySource()).lever
        for generation in (1, 2, 3, 4)
    ]
    assert levers == ["harness", "weights", "harness", "weights"]


@pytest.mark.parametrize(("refused", "left"), [(("harness",), "weights"), (("harness", "weights"), "stop")])
def test_lever_that_cannot_be_pulled_is_passed_over(refused: tuple[Lever, ...], left: str) -> None:
    asked = replace(BOTH, generation=1, refused_levers=refused)
    assert AlternateAgent().decide(asked, MemorySource()).lever == left
