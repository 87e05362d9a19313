"""The weight lever through the whole loop: a tiny model is trained, gated, served, and better."""

import json
import shutil
from pathlib import Path

import pytest

from tests.e2e.conftest import TOY, Sia


def test_the_weight_lever_raises_the_score_and_is_served(sia: Sia, tiny_model: Path) -> None:
    policy = f"local:{tiny_model}"
    sia("run", str(TOY), "--policy", policy, "--levers", "weights", "--generations", "1", "--threads", "1", "--no-ui")
    run = sia.run()
    _seed, child = run.nodes()
    assert child.lever == "weights"
    assert child.candidate.adapter is not None
    assert child.promoted, child
    assert child.gate is not None
    assert child.gate.gain.bound > 0

    # The adapter that was trained is the one that answered, and it answers otherwise than the bare policy.
    generation = run.generations()[0]
    parent, trained = (generation.rollouts(name) for name in ("gate_parent", "gate_child"))
    assert {turn.adapter for rollout in trained for turn in rollout.turns} == {child.candidate.adapter}
    assert {turn.adapter for rollout in parent for turn in rollout.turns} == {None}
    logprobs = [{turn.logprobs for rollout in side for turn in rollout.turns} for side in (parent, trained)]
    assert not logprobs[0] & logprobs[1]

    # Only training problems were learnt from.
    executed = generation.rollouts("train")
    assert {rollout.unit.split for rollout in executed} == {"train"}
    assert all(rollout.trainable for rollout in executed)

    test = run.phase("test")
    assert test is not None
    assert test["gain"]["low"] > 0
    gaps = run.record.client.get_metric_history(generation.run_id, "update.gap")
    steps = run.record.client.get_metric_history(generation.run_id, "update.kl")
    assert len(gaps) == len(steps) >= 2
    # Before the first step of each round the trainer finds the very logprobs the engine recorded.
    assert all(point.value < 1e-3 for point in gaps if point.step % 2 == 0)
    assert all(point.value >= 0 for point in steps)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["rloo", "best_of_n", "dpo"])
def test_other_algorithms_go_through_the_loop(sia: Sia, tiny_model: Path, tmp_path: Path, algorithm: str) -> None:
    task = shutil.copytree(TOY, tmp_path / "task")
    toml = (task / "task.toml").read_text()
    (task / "task.toml").write_text(toml.replace("[update]", f'[update]\nalgorithm = "{algorithm}"'))
    options = ("--levers", "weights", "--generations", "1", "--threads", "1", "--no-ui")
    sia("run", str(task), "--policy", f"local:{tiny_model}", *options)
    run = sia.run()
    node = run.nodes()[1]
    generation = run.generations()[0]
    spec = json.loads(generation.get_bytes("update/spec.json") or b"{}")
    rounds = json.loads(generation.get_bytes("update/rounds.json") or b"{}")
    assert spec["algorithm"] == algorithm
    assert 0 <= rounds["kept"] <= len(rounds["history"])
    assert (node.candidate.adapter is not None) == (rounds["kept"] > 0), node.failure
