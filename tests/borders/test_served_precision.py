"""A server that rounds an adapter's effect away is found out before a run spends anything."""

from dataclasses import replace
from pathlib import Path

import pytest

from sia_core.policy.local import LocalPolicy
from sia_core.weights.launcher import reference_folder
from sia_core.weights.manifest import read_manifest
from sia_core.weights.serving import Agreement, agreement, why_not_trainable
from sia_core.weights.trainer import Trainer
from tests.weights.test_weights import SPEC

LIMIT = 0.05
BARE, ADAPTED = (-1.0, -2.0, -3.0), (-1.1, -1.8, -3.0)
SOUND = Agreement(gap=0.0, greatest=0.0, effect=0.1, error=0.0)


def test_server_as_exact_as_the_trainer_agrees(tiny_model: Path, tmp_path: Path) -> None:
    trainer = Trainer(tiny_model, SPEC, None, threads=1)
    adapter = trainer.save_reference(reference_folder(tmp_path))
    manifest = read_manifest(reference_folder(tmp_path)) or {}
    policy = LocalPolicy(f"local:{tiny_model}", tiny_model, threads=1)
    found = agreement(policy.probe(None), policy.probe(adapter), manifest["bare"], manifest["probe"])
    assert found.gap < 1e-4 and found.effect > 1e-3
    assert found.error < 1e-3
    assert why_not_trainable(found, LIMIT) is None


def test_server_that_ignores_adapters_is_refused() -> None:
    found = agreement(BARE, BARE, BARE, ADAPTED)
    assert found.error == pytest.approx(1.0)
    assert "off by 100% of an adapter's effect" in (why_not_trainable(found, LIMIT) or "")


def test_server_with_a_third_of_the_effect_is_refused() -> None:
    third = tuple(before + (after - before) / 3 for before, after in zip(BARE, ADAPTED, strict=True))
    found = agreement(BARE, third, BARE, ADAPTED)
    assert found.error == pytest.approx(2 / 3)
    assert why_not_trainable(found, LIMIT) is not None


def test_server_of_another_base_model_is_refused() -> None:
    found = agreement((-2.0, -2.0, -3.0), (-2.1, -1.8, -3.0), BARE, ADAPTED)
    assert "differ from the trainer's by 0.33" in (why_not_trainable(found, LIMIT) or "")


@pytest.mark.parametrize("bad", [{"gap": float("nan")}, {"error": float("nan")}, {"error": float("inf")}])
def test_logprobs_that_are_not_finite_are_refused(bad: dict[str, float]) -> None:
    assert why_not_trainable(replace(SOUND, **bad), LIMIT) == "the server's logprobs are not finite numbers"


def test_exact_server_is_trainable() -> None:
    assert why_not_trainable(SOUND, LIMIT) is None
