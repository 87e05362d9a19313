"""Test what an agent may propose for an update, the messages of refusals, and the resulting spec."""

from dataclasses import asdict
from typing import Any

import pytest

from sia_core.domain.json_data import read
from sia_core.domain.rollout import Rollout
from sia_core.weights.algorithms import ALGORITHMS
from sia_core.weights.preconditions import suggest
from sia_core.weights.proposal import SETTINGS, ProposalError, settle
from sia_core.weights.spec import UpdateSpec, refuse
from tests.factories import make_rollout
from tests.weights.test_preconditions import MIXED, SKEWED, batch

TASK = {"algorithm": "dr_grpo", "rounds": 3, "rank": 16, "learning_rate": 2e-4, "steps": 5}
FREE = {"rounds": 3, "rank": 16}


def spec(settings: dict[str, Any]) -> UpdateSpec:
    return UpdateSpec(parent_adapter=None, temperature=1.0, seed=0, **settings)


@pytest.mark.parametrize("rollouts", [MIXED, SKEWED, batch([0, 1], [1, 0], [0, 0])])
def test_unnamed_algorithm_is_replaced_by_the_fitting_one(rollouts: list[Rollout]) -> None:
    settled = settle(rollouts, FREE, {})
    assert settled["algorithm"] == suggest(rollouts)[0]
    assert settled["learning_rate"] == ALGORITHMS[settled["algorithm"]].defaults["learning_rate"]
    assert refuse(rollouts, spec(settled)) is None


def test_proposal_precedes_the_task_and_the_task_precedes_defaults() -> None:
    settled = spec(settle(MIXED, TASK, {"learning_rate": 1e-5, "kl_base": 0.02, "clip_high": 0.4}))
    assert (settled.algorithm, settled.learning_rate, settled.steps, settled.rank) == ("dr_grpo", 1e-5, 5, 16)
    assert (settled.kl_base, settled.clip_high) == (0.02, 0.4)
    assert spec(settle(MIXED, TASK, {})).learning_rate == 2e-4


def test_another_algorithm_brings_its_own_learning_rate_and_steps() -> None:
    settled = spec(settle(MIXED, TASK, {"algorithm": "dpo"}))
    assert (settled.learning_rate, settled.steps) == (1e-5, 4)
    assert (settled.rounds, settled.rank) == (3, 16)
    assert spec(settle(MIXED, TASK, {"algorithm": "dpo", "learning_rate": 3e-5})).learning_rate == 3e-5


@pytest.mark.parametrize(
    ("proposed", "field", "words"),
    [
        ({"temperature": 0.5}, "temperature", "no such setting"),
        ({"max_gap": 9.0}, "max_gap", "there are algorithm, rounds"),
        ({"algorithm": "q_learning"}, "algorithm", "give one of dr_grpo, grpo"),
        ({"algorithm": ["ppo"]}, "algorithm", "is not allowed"),
        ({"learning_rate": 0}, "learning_rate", "a number above 0 to 0.1"),
        ({"learning_rate": 1.0}, "learning_rate", "1.0 is not allowed"),
        ({"learning_rate": float("nan")}, "learning_rate", "nan is not allowed"),
        ({"learning_rate": "1e-4"}, "learning_rate", "'1e-4' is not allowed"),
        ({"threshold": float("inf")}, "threshold", "inf is not allowed"),
        ({"rounds": 0}, "rounds", "an integer from 1 to 32"),
        ({"rounds": 10**400}, "rounds", "is not allowed"),
        ({"steps": 2.5}, "steps", "an integer from 1 to 32"),
        ({"steps": True}, "steps", "an integer from 1 to 32"),
        ({"lam": 0.9}, "lam", "algorithm dr_grpo does not read it"),
        ({"cap": 3.0}, "cap", "loss clip does not read it"),
        ({"algorithm": "dpo", "loss": "cispo"}, "loss", "algorithm dpo does not read it"),
        ({"algorithm": "best_of_n", "clip_low": 0.1}, "clip_low", "loss cross_entropy does not read it"),
        ({"backend": "auto"}, "backend", "give one of own, trl"),
        ({"backend": "trl"}, "backend", "backend trl does not train algorithm dr_grpo"),
    ],
)
def test_impossible_values_are_refused_with_field_and_range(proposed: dict[str, Any], field: str, words: str) -> None:
    with pytest.raises(ProposalError, match="update") as caught:
        settle(MIXED, TASK, proposed)
    assert caught.value.field == field
    assert words in str(caught.value)
    assert caught.value.hint


def test_settings_go_with_the_algorithm_and_loss_that_read_them() -> None:
    assert settle(MIXED, TASK, {"algorithm": "ppo", "lam": 0.9})["lam"] == 0.9
    assert settle(MIXED, TASK, {"loss": "importance", "cap": 3.0})["cap"] == 3.0


def test_backend_is_own_unless_another_is_named() -> None:
    assert spec(settle(MIXED, TASK, {})).backend == "own"
    assert spec(settle(MIXED, TASK, {"backend": "own"})).backend == "own"
    assert spec(settle(MIXED, TASK, {"algorithm": "dpo"})).backend == "own"
    assert spec(settle(MIXED, TASK, {"algorithm": "dpo", "backend": "trl"})).backend == "trl"


def test_task_names_a_backend_for_its_own_algorithm_alone() -> None:
    task = {**TASK, "algorithm": "dpo", "backend": "trl"}
    assert spec(settle(MIXED, task, {})).backend == "trl"
    assert spec(settle(MIXED, task, {"backend": "own"})).backend == "own"
    assert spec(settle(MIXED, task, {"algorithm": "dr_grpo"})).backend == "own"


def test_spec_from_before_the_backend_was_named_is_read_and_means_own() -> None:
    now = spec(settle(MIXED, TASK, {"algorithm": "dpo", "backend": "trl"}))
    assert read(UpdateSpec, asdict(now)) == now
    old = {name: value for name, value in asdict(now).items() if name != "backend"}
    assert read(UpdateSpec, old).backend == "own"


def test_rank_of_an_adapter_trained_further_cannot_be_changed() -> None:
    assert settle(MIXED, TASK, {"rank": 8})["rank"] == 8
    with pytest.raises(ProposalError, match="keeps its rank"):
        settle(MIXED, TASK, {"rank": 8}, fresh=False)


def test_batch_that_fits_no_algorithm_states_the_reason() -> None:
    with pytest.raises(ProposalError, match="all 2 groups are constant") as caught:
        settle(batch([0, 0], [1, 1]), FREE, {})
    assert caught.value.field == "algorithm"


def test_rollouts_of_another_adapter_are_stale() -> None:
    settled = settle(MIXED, TASK, {})
    other = UpdateSpec(parent_adapter="a" * 64, temperature=1.0, seed=0, **settled)
    assert "branch from the node that was executed" in (refuse(MIXED, other) or "")


def test_settings_table_keeps_the_bounds_of_the_spec() -> None:
    assert set(SETTINGS) <= set(UpdateSpec.__dataclass_fields__)
    for setting in SETTINGS.values():
        assert setting.about
        if setting.kind == "string":
            assert all(map(setting.takes, setting.names))
            continue
        assert setting.takes(setting.high) and not setting.takes(setting.high + 1)
        assert setting.takes(setting.low) != setting.above and not setting.takes(setting.low - 1)


def test_defaults_of_every_algorithm_are_such_as_may_be_proposed() -> None:
    for name, algorithm in ALGORITHMS.items():
        for field, value in algorithm.defaults.items():
            assert field not in SETTINGS or SETTINGS[field].takes(value), (name, field)


def test_unscored_rollouts_settle_nothing() -> None:
    with pytest.raises(ProposalError, match="none fits"):
        settle([make_rollout("a", 0, failure="worker")], FREE, {})
