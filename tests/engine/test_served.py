"""`vllm:DIR` through the engine: its server starts with the run, is started again when it dies, and ends with the run.

A stand-in takes the place of vLLM: another program, started the same way, with a small model behind vLLM's wire format.
"""

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
import torch

from sia_core.domain.candidate import Adapter
from sia_core.domain.errors import PolicyError, ServiceError
from sia_core.domain.harness import Harness
from sia_core.domain.rollout import Rollout, Unit
from sia_core.domain.task import Task
from sia_core.engine.fanout import Engine, EngineConfig
from sia_core.engine.served import MOST_STARTS, ServedPolicy
from sia_core.engine.vllm_server import read_options
from sia_core.policy.local import LocalPolicy
from sia_core.policy.protocol import EndpointError
from sia_core.policy.spec import parse_spec
from sia_core.policy.vllm import VllmPolicy
from sia_core.weights.spec import UpdateSpec
from sia_core.weights.trainer import Trainer
from tests.engine.test_vllm_server import all_gone
from tests.factories import ask

pytestmark = pytest.mark.slow

TOY = Path(__file__).parents[1] / "toy"
COUNT = 12


@pytest.fixture(autouse=True)
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The stand-in for vLLM, and the file with its process ids."""
    monkeypatch.setenv("STAND_IN_PIDS", str(tmp_path / "pids"))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.setenv("SIA_VLLM", f"{sys.executable} -m tests.wire.stand_in")
    monkeypatch.setenv("SIA_VLLM_GPUS", "0")
    monkeypatch.setenv("SIA_VLLM_ARGS", "--stand-in model")
    return tmp_path / "pids"


@pytest.fixture
def cluster(stand_in: Path) -> Iterator[None]:
    """Started in the stand-in's environment, which Ray's processes inherit."""
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def adapter(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Adapter:
    trainer = Trainer(tiny_model, UpdateSpec(None, 1, 1, 0.01, 4, 1.0, 0), None, threads=1)
    with torch.no_grad():
        for parameter in trainer._parameters.values():
            parameter.normal_(std=0.2)
    return trainer.save(tmp_path_factory.mktemp("adapter") / "checkpoint", [])


def engine(model: Path, folder: Path, said: list[str] | None = None) -> Engine:
    listener: list[str] = [] if said is None else said
    config = EngineConfig(f"vllm:{model}", "none", 1, folder=folder)
    return Engine(config, Task.load(TOY), listener.append)


def play(running: Engine, adapter: Adapter | None, stand_in: Path, kill_after: int | None = None) -> list[Rollout]:
    """Play twelve problems, and kill the server after `kill_after` of them."""
    task = Task.load(TOY)
    harness = Harness.load(TOY / "harness").with_knobs({"menu": "rich"})
    digest = adapter.digest if adapter else None
    units = [
        Unit(task.digest, harness.digest, running.policy.digest, digest, "train", f"train-{n}", 7, task.sampling)
        for n in range(COUNT)
    ]
    rollouts = []
    for number, rollout in enumerate(running.run(units, harness, adapter), 1):
        rollouts.append(rollout)
        if number == kill_after:
            os.kill(int(stand_in.read_text().split()[0]), signal.SIGKILL)
    assert sorted(rollout.unit.key for rollout in rollouts) == sorted(unit.key for unit in units)
    return sorted(rollouts, key=lambda rollout: rollout.unit.key)


def choices(rollouts: list[Rollout]) -> list[tuple[object, ...]]:
    return [(rollout.answer, rollout.turns[0].output_ids, rollout.score) for rollout in rollouts]


def test_own_server_serves_adapters_and_ends_with_the_run(
    cluster: None, tiny_model: Path, adapter: Adapter, stand_in: Path, tmp_path: Path
) -> None:
    local = LocalPolicy("local", tiny_model, threads=1)
    with engine(tiny_model, tmp_path) as running:
        bare, adapted = play(running, None, stand_in), play(running, adapter, stand_in)
        assert running.policy.probe() == pytest.approx(local.probe(), abs=1e-4)
        assert running.policy.probe(adapter) == pytest.approx(local.probe(adapter), abs=1e-4)
    assert choices(bare) != choices(adapted)
    assert {turn.adapter for rollout in adapted for turn in rollout.turns} == {adapter.digest}
    assert all_gone(stand_in), "the server outlived the run"


def test_server_that_dies_is_started_again(
    cluster: None, tiny_model: Path, adapter: Adapter, stand_in: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    with engine(tiny_model, tmp_path / "undisturbed") as running:
        expected = play(running, None, stand_in), play(running, adapter, stand_in)
        probes = running.policy.probe(), running.policy.probe(adapter)
    with engine(tiny_model, tmp_path / "disturbed", said) as running:
        found = play(running, None, stand_in), play(running, adapter, stand_in, kill_after=4)
        assert (running.policy.probe(), running.policy.probe(adapter)) == probes
    assert [choices(rollouts) for rollouts in found] == [choices(rollouts) for rollouts in expected]
    assert [line.partition(";")[0].partition(" after")[0] for line in said] == [
        "Ray cluster of 1 node",
        f"starting a vLLM server for vllm:{tiny_model}",
        f"policy vllm:{tiny_model} does not answer",
        f"policy vllm:{tiny_model} answers again",
    ]
    assert all_gone(stand_in)


def test_server_that_cannot_be_started_again_ends_the_run(
    cluster: None, tiny_model: Path, stand_in: Path, tmp_path: Path
) -> None:
    with engine(tiny_model, tmp_path) as running:
        stand_in.with_name("broken").touch()
        with pytest.raises(PolicyError, match=r"(?s)the server ended: .*the GPU is broken"):
            play(running, None, stand_in, kill_after=2)
    assert all_gone(stand_in)


def test_server_that_dies_repeatedly_ends_the_run(
    tiny_model: Path, stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIA_VLLM_ARGS", "--stand-in light")
    spec = parse_spec(f"vllm:{tiny_model}")
    assert spec is not None
    policy = ServedPolicy(spec, tiny_model, read_options(rank=8), tmp_path / "vllm.log")

    def die_and_be_probed() -> None:
        os.kill(int(stand_in.read_text().split()[0]), signal.SIGKILL)
        while policy._server.alive():
            time.sleep(0.01)
        with pytest.raises(EndpointError, match="the server has died"):
            policy.sample(ask("?"))
        with pytest.raises(EndpointError, match="the server has died"):
            policy.probe()
        policy.probe()

    monkeypatch.setattr(VllmPolicy, "probe", lambda *_: ())
    for _ in range(MOST_STARTS - 1):
        die_and_be_probed()
    with pytest.raises(PolicyError, match=f"died {MOST_STARTS} times"):
        die_and_be_probed()
    policy.close()
    assert all_gone(stand_in)


def test_killed_policy_leaves_no_server_and_the_next_one_starts_its_own(
    cluster: None, tiny_model: Path, stand_in: Path, tmp_path: Path
) -> None:
    with engine(tiny_model, tmp_path) as running:
        first = stand_in.read_text()
        ray.kill(running._policy_actor, no_restart=False)
        deadline = time.monotonic() + 60
        while stand_in.read_text() == first and time.monotonic() < deadline:
            time.sleep(0.1)
        assert all(rollout.failure is None for rollout in play(running, None, stand_in))
        stand_in.with_name("first").write_text(first)
        assert all_gone(stand_in.with_name("first"))
    assert all_gone(stand_in)


def test_failure_at_the_start_of_the_server_keeps_its_message(
    cluster: None, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIA_VLLM_GPUS", "2")
    with pytest.raises(ServiceError, match="needs 2 GPUs, the cluster has 0") as refused, engine(tiny_model, tmp_path):
        pass
    assert "vllm:DIR@http" in refused.value.hint
    monkeypatch.setenv("SIA_VLLM_GPUS", "0")
    monkeypatch.setenv("SIA_VLLM_ARGS", "--stand-in fails")
    with pytest.raises(PolicyError, match=r"no such model; the key is \[key\]") as failed:
        engine(tiny_model, tmp_path).__enter__()
    assert str(tmp_path / "vllm.log") in failed.value.hint
    monkeypatch.setenv("SIA_VLLM", "no-such-program")
    with pytest.raises(PolicyError, match="no program 'no-such-program'"):
        engine(tiny_model, tmp_path).__enter__()
