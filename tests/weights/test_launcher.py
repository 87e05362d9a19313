"""The trainer behind Ray has its own process, does each round once, and loses nothing when killed."""

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import ray

from sia_core.domain.errors import PolicyError
from sia_core.domain.rollout import Rollout
from sia_core.policy.local import LocalPolicy
from sia_core.weights.launcher import TrainerHandle
from sia_core.weights.trainer import Trainer
from tests.weights.test_weights import SPEC, play

pytestmark = pytest.mark.slow

LOOSE = replace(SPEC, max_gap=9.0)
"""Spec with a wide `max_gap`: all rounds here train on the same rollouts, so the later rounds are off-policy."""


@pytest.fixture(scope="module")
def rollouts(tiny_model: Path) -> list[Rollout]:
    return play(LocalPolicy(f"local:{tiny_model}", tiny_model, threads=1), None, 0)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.mark.usefixtures("cluster")
def test_killed_trainer_resumes_from_its_last_round_with_the_same_bits(
    tiny_model: Path, rollouts: list[Rollout], tmp_path: Path
) -> None:
    straight = Trainer(tiny_model, LOOSE, None, threads=1)
    digests = [straight.save(tmp_path / f"s{n}", straight.train(rollouts)).digest for n in range(3)]
    with TrainerHandle(tiny_model, LOOSE, None, tmp_path / "u", threads=1) as trainer:
        first, steps = trainer.round(1, rollouts)
        assert [step["choices"] > 0 for step in steps] == [True, True]
        second, _ = trainer.round(2, rollouts)
        ray.kill(trainer._actor)
        third, _ = trainer.round(3, rollouts)
    assert [first.digest, second.digest, third.digest] == digests
    # Asked again after all is over, a round is read from disk: no process is started for it.
    with TrainerHandle(tiny_model, LOOSE, None, tmp_path / "u", threads=1) as trainer:
        assert trainer.round(1, rollouts) == (first, steps)
        assert trainer._actor is None
    with (
        TrainerHandle(tiny_model, replace(LOOSE, seed=9), None, tmp_path / "u", threads=1) as trainer,
        pytest.raises(PolicyError, match="checkpoint has spec_id"),
    ):
        trainer.round(1, rollouts)


@pytest.mark.usefixtures("cluster")
def test_refusal_keeps_its_type_and_leaves_nothing_half_done(
    tiny_model: Path, rollouts: list[Rollout], tmp_path: Path
) -> None:
    others = [
        replace(r, turns=tuple(replace(t, logprobs=tuple(p - 1 for p in t.logprobs or ())) for t in r.turns))
        for r in rollouts
    ]
    with TrainerHandle(tiny_model, SPEC, None, tmp_path / "u", threads=1) as trainer:
        for _ in range(2):
            with pytest.raises(PolicyError, match="not sampled by this base and adapter"):
                trainer.round(1, others)
        adapter, _ = trainer.round(1, rollouts)
    fresh = Trainer(tiny_model, SPEC, None, threads=1)
    assert fresh.save(tmp_path / "fresh", fresh.train(rollouts)).digest == adapter.digest


@pytest.mark.usefixtures("cluster")
def test_trainer_killed_in_the_middle_of_a_round_ends_with_the_same_bits(
    tiny_model: Path, rollouts: list[Rollout], tmp_path: Path
) -> None:
    spec = replace(LOOSE, algorithm="ppo", steps=10, learning_rate=1e-4)
    straight = Trainer(tiny_model, spec, None, threads=1)
    digests = [straight.save(tmp_path / f"s{n}", straight.train(rollouts)).digest for n in (1, 2)]
    with TrainerHandle(tiny_model, spec, None, tmp_path / "u", threads=1) as trainer, ThreadPoolExecutor(1) as pool:
        trainer.round(1, rollouts)
        process = psutil.Process(ray.get(trainer._actor.__ray_call__.remote(lambda _: os.getpid())))
        before = sum(process.cpu_times()[:2])
        second = pool.submit(trainer.round, 2, rollouts)
        while sum(process.cpu_times()[:2]) < before + 0.1:  # Some of its steps are done.
            time.sleep(0.01)
        process.kill()
        assert not (tmp_path / "u" / "round-2").exists()
        assert second.result()[0].digest == digests[1]
    for file in (tmp_path / "s2").rglob("*.safetensors"):
        assert (tmp_path / "u" / "round-2" / file.relative_to(tmp_path / "s2")).read_bytes() == file.read_bytes()


@pytest.mark.usefixtures("cluster")
def test_round_of_other_rollouts_is_not_taken_from_disk(
    tiny_model: Path, rollouts: list[Rollout], tmp_path: Path
) -> None:
    with TrainerHandle(tiny_model, LOOSE, None, tmp_path / "u", threads=1) as trainer:
        trainer.round(1, rollouts)
        with pytest.raises(PolicyError, match="checkpoint has batch"):
            trainer.round(1, rollouts[1:])
