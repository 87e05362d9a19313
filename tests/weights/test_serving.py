"""A wrong adapter is detected, since the engine's logprobs must match those of the trained adapter."""

from dataclasses import replace
from pathlib import Path

import pytest

from sia_core.policy.local import LocalPolicy
from sia_core.weights.launcher import round_folder
from sia_core.weights.manifest import read_manifest
from sia_core.weights.serving import why_not_served
from sia_core.weights.trainer import Trainer
from tests.weights.test_weights import SPEC, play

LIMIT = 0.05


def test_engine_serves_the_trained_adapter_and_another_is_caught(tiny_model: Path, tmp_path: Path) -> None:
    policy = LocalPolicy(f"local:{tiny_model}", tiny_model, threads=1)
    trainer = Trainer(tiny_model, replace(SPEC, max_gap=9.0), None, threads=1)
    rollouts = play(policy, None, 0)
    adapters, probes = [], []
    for number in (1, 2):
        adapters.append(trainer.save(round_folder(tmp_path, number), trainer.train(rollouts)))
        probes.append((read_manifest(round_folder(tmp_path, number)) or {})["probe"])
    others = {"round 1": probes[0], "round 2": probes[1], "the parent": policy.probe(None)}
    for adapter, probe in zip(adapters, probes, strict=True):
        assert policy.probe(adapter) == pytest.approx(probe, abs=1e-4)
        assert why_not_served(policy.probe(adapter), probe, others, LIMIT) is None
    # Served in place of round 2: the adapter of the round before, and none at all.
    assert "nearest to round 1" in (why_not_served(policy.probe(adapters[0]), probes[1], others, LIMIT) or "")
    assert "nearest to the parent" in (why_not_served(policy.probe(None), probes[1], others, 9.0) or "")


@pytest.mark.parametrize("served", [(), (-1.0,), (-1.0, -3.0), (-1.0, float("nan"))])
def test_probes_that_are_far_off_or_none_are_refused(served: tuple[float, ...]) -> None:
    assert "differ from the trainer's" in (why_not_served(served, (-1.0, -2.0), {}, LIMIT) or "")


def test_unchanged_round_is_not_taken_for_another_adapter() -> None:
    assert why_not_served((-1.0, -2.0), (-1.0, -2.0), {"round 1": (-1.0, -2.0)}, LIMIT) is None


def test_engine_that_rounds_otherwise_is_not_taken_for_another_adapter() -> None:
    assert why_not_served((-1.01, -2.02), (-1.0, -2.0), {"the parent": (-1.3, -2.4)}, LIMIT) is None
