"""A decision's proposal becomes the trained spec, or a reason that goes back to the agent."""

from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

import pytest

from sia_core.domain.candidate import Candidate
from sia_core.domain.json_data import read
from sia_core.domain.lineage import Decision, Node
from sia_core.domain.rollout import Sampling
from sia_core.domain.task_config import UpdateDefaults
from sia_core.loop.levers import objections
from sia_core.loop.weight_lever import update_spec
from sia_core.weights.groups import batch_digest
from tests.weights.test_preconditions import MIXED, batch

PARENT = Node(0, None, Candidate("harness"), "seed", promoted=True)


def session(**update: Any) -> Any:
    """Return the parts of a session that the weight lever reads before it trains."""
    config = SimpleNamespace(levers=("harness", "weights"), seed=3, policy="local:x")
    task = SimpleNamespace(config=SimpleNamespace(update=UpdateDefaults(**update)), sampling=Sampling(1.0, 9))
    return SimpleNamespace(config=config, task=task, engine=SimpleNamespace(policy=SimpleNamespace(trainable=True)))


def decide(**proposed: Any) -> Decision:
    return Decision("weights", 0, "headroom", "test", update=proposed)


def test_proposed_update_is_the_update_trained() -> None:
    decision = decide(algorithm="grpo", learning_rate=1e-5, rounds=2)
    assert objections(session(), decision, PARENT, MIXED) == []
    spec = update_spec(session(rank=4, anchors=3, max_gap=0.1), decision, PARENT, MIXED)
    assert (spec.algorithm, spec.learning_rate, spec.rounds, spec.rank) == ("grpo", 1e-5, 2, 4)
    assert (spec.reason, spec.batch, spec.temperature, spec.max_gap) == ("headroom", batch_digest(MIXED), 1.0, 0.1)
    # As it comes back from the record of a run that was resumed.
    again = read(Decision, asdict(decision))
    assert update_spec(session(rank=4, anchors=3, max_gap=0.1), again, PARENT, MIXED).id == spec.id


@pytest.mark.parametrize(
    ("decision", "words"),
    [
        (decide(learning_rate=3.0), "update.learning_rate: 3.0 is not allowed"),
        (decide(epochs=3), "update.epochs: there is no such setting"),
        (decide(algorithm="entropic"), "6.0 rollouts per problem: entropic needs at least 16"),
        (decide(algorithm="ppo"), "no rewards of single turns"),
        (decide(backend="trl"), "update.backend: backend trl does not train algorithm dr_grpo"),
        (decide(algorithm="dpo", backend="trl"), "set backend to own, which can"),
    ],
)
def test_untrainable_proposal_goes_back_with_the_reason(decision: Decision, words: str) -> None:
    assert words in " ".join(objections(session(), decision, PARENT, MIXED))


def test_where_nothing_fits_the_lever_is_refused() -> None:
    constant = batch([0, 0], [1, 1])
    assert "none fits" in " ".join(objections(session(), decide(), PARENT, constant))
    assert "constant" in " ".join(objections(session(algorithm="dr_grpo"), decide(), PARENT, constant))


def test_trl_is_refused_in_the_task_file_without_an_algorithm_that_it_trains() -> None:
    assert UpdateDefaults(algorithm="kto", backend="trl").settings["backend"] == "trl"
    assert "backend" not in UpdateDefaults(algorithm="kto").settings
    for algorithm in (None, "rloo"):
        with pytest.raises(ValueError, match="is for the algorithms best_of_n, dpo, kto"):
            UpdateDefaults(algorithm=algorithm, backend="trl")


def test_single_anchor_is_refused_in_the_task_file() -> None:
    assert UpdateDefaults(anchors=2).anchors == 2
    with pytest.raises(ValueError, match="at least 2 anchor problems"):
        UpdateDefaults(anchors=1)
