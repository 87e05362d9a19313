"""Rollouts are spread over problems by the evidence so far."""

import pytest

from sia_core.domain.config import RunConfig
from sia_core.domain.plan import Shape, deal, plan_rollouts, shape_of
from sia_core.domain.task_config import UpdateDefaults

PLAN = {"problems": 8, "rollouts": 8, "gate_problems": 4, "gate_rollouts": 1, "test_problems": 2, "test_rollouts": 1}


def config(**given: object) -> RunConfig:
    return RunConfig.model_validate({"task": "t", "generations": 2, **PLAN, **given})


@pytest.mark.parametrize(
    ("within", "available", "expected"),
    [(None, 100, (8, 8)), (0.5, 100, (8, 8)), (0.02, 100, (32, 2)), (0.0, 20, (20, 2)), (0.0, 8, (8, 8))],
)
def test_constant_groups_give_more_problems_within_the_same_number_of_rollouts(
    within: float | None, available: int, expected: tuple[int, int]
) -> None:
    shape = shape_of(config(), within, available)
    assert (shape.problems, shape.rollouts) == expected
    assert shape.problems * shape.rollouts <= 64
    assert bool(shape.reason) == (expected != (8, 8))


def test_states_keep_their_groups() -> None:
    assert shape_of(config(reuse_states=True), 0.0, 100) == Shape(8, 8)


def test_larger_block_begins_where_its_generation_does() -> None:
    order = [str(number) for number in range(10)]
    assert deal(order, 1, 3) == ["3", "4", "5"]
    assert deal(order, 1, 6, start=3) == ["3", "4", "5", "6", "7", "8"]


def test_trials_are_planned_for_agents_that_play_drafts() -> None:
    plans = {agent: plan_rollouts(config(agent=agent), UpdateDefaults()) for agent in ("rules", "openai:m")}
    assert (plans["rules"].trials, plans["openai:m"].trials) == (0, 64)
    assert (plans["rules"].validation, plans["openai:m"].validation) == (52, 72)
    assert plans["openai:m"].generation - plans["rules"].generation == 64 + 20
