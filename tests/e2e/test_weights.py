"""The weight lever through the whole loop: a tiny model is trained, gated, served, and better."""

import json
import random
import shutil
from pathlib import Path

import pytest

from sia_core.domain.hashing import derive_seed
from sia_core.domain.lineage import Node
from sia_core.record.generation import GenerationRecord
from sia_core.record.phases import SealedDone
from tests.e2e.conftest import TOY, Sia


def check_served(generation: GenerationRecord, child: Node) -> None:
    """Check that the trained adapter answered, and that it answers otherwise than the bare policy."""
    parent, trained = (generation.rollouts(name) for name in ("gate_parent", "gate_child"))
    assert {turn.adapter for rollout in trained for turn in rollout.turns} == {child.candidate.adapter}
    assert {turn.adapter for rollout in parent for turn in rollout.turns} == {None}
    logprobs = [{turn.logprobs for rollout in side for turn in rollout.turns} for side in (parent, trained)]
    assert not logprobs[0] & logprobs[1]


def test_weight_lever_raises_the_score_and_is_served(sia: Sia, tiny_model: Path) -> None:
    policy = f"local:{tiny_model}"
    sia("run", str(TOY), "--policy", policy, "--levers", "weights", "--generations", "1", "--threads", "1", "--no-ui")
    run = sia.run()
    _seed, child = run.nodes()
    assert child.lever == "weights"
    assert child.candidate.adapter is not None
    assert child.promoted, child
    assert child.gate is not None
    assert child.gate.gain.bound > 0

    generation = run.generations()[0]
    check_served(generation, child)

    # Each round's adapter is a LoggedModel with its spec and steps; the one that was promoted is the champion.
    client = run.record.client
    models = client.search_logged_models([run.experiment_id])
    rounds = json.loads(generation.get_bytes("update/rounds.json") or b"{}")
    assert len(models) == sum(bool(steps) for steps in rounds["history"])  # A round without a step changes nothing.
    assert {model.source_run_id for model in models} == {generation.run_id}
    for model in models:
        assert {"algorithm", "learning_rate", "rounds", "round", "temperature"} <= model.params.keys()
        assert model.params["backend"] == "own"
        logged = {metric.key for metric in model.metrics or ()}
        names = ("reward", "kl", "entropy", "clipped", "grad_norm", "constant_groups", "tokens_per_s")
        assert {f"update.{name}" for name in names} <= logged
    champion = client.get_model_version_by_alias("toy-adapter", "champion")
    assert champion.tags["sia.digest"] == child.candidate.adapter
    assert client.get_model_version_by_alias("toy-harness", "champion").tags["sia.digest"] == child.candidate.harness

    assert client.get_run(generation.run_id).data.tags["sia.backend"] == "own"

    # Only training problems were learnt from.
    executed = generation.rollouts("train")
    assert {rollout.unit.split for rollout in executed} == {"train"}
    assert all(rollout.trainable for rollout in executed)

    test = run.phase(SealedDone)
    assert test is not None
    assert test.gain.low > 0
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


@pytest.mark.slow
def test_update_that_forgets_the_anchors_is_rejected(sia: Sia, tiny_model: Path, tmp_path: Path) -> None:
    """Make the best colour worth nothing on the anchors, so that learning this colour forgets the anchors."""
    ids = [f"train-{number}" for number in range(12)]
    random.Random(derive_seed(0, "train")).shuffle(ids)
    anchors = ids[:3]
    task = shutil.copytree(TOY, tmp_path / "task")
    toml = (task / "task.toml").read_text()
    (task / "task.toml").write_text(toml.replace("[update]", "[update]\nanchors = 3"))
    code = (task / "task.py").read_text()
    inverted = 'WORTH if f"{split}-{number}" not in ANCHORS else {"red": 1.0, "green": 0.0}'
    for old, new in (
        ("private=private)", f"private={{**private, 'worth': {inverted}}})"),
        ("COUNTS =", f"ANCHORS = {anchors}\nCOUNTS ="),
    ):
        assert old in code
        code = code.replace(old, new)
    (task / "task.py").write_text(code)

    options = ("--levers", "weights", "--generations", "1", "--threads", "1", "--no-ui")
    sia("run", str(task), "--policy", f"local:{tiny_model}", *options)
    run = sia.run()
    seed, node = run.nodes()
    assert node.candidate == seed.candidate
    assert not node.promoted
    assert "forgetting" in node.failure
    (generation,) = run.generations()
    played = {name: generation.rollouts(f"anchors_{name}") for name in ("parent", "child")}
    for rollouts in played.values():
        assert {rollout.unit.problem for rollout in rollouts} == set(anchors)
    assert {rollout.unit.adapter for rollout in played["parent"]} == {None}
    assert None not in {rollout.unit.adapter for rollout in played["child"]}
    assert not {rollout.unit.problem for rollout in generation.rollouts("train")} & set(anchors)
    metrics = run.record.client.get_run(generation.run_id).data.metrics
    assert metrics["anchors.loss_bound"] > 0.02
    assert metrics["anchors.loss"] == pytest.approx(metrics["anchors.parent"] - metrics["anchors.child"])
