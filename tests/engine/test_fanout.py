"""Fan-out on a real Ray cluster: every unit has exactly one record, although workers and policies die."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from sia_core.domain.errors import ServiceError
from sia_core.domain.harness import Harness
from sia_core.domain.rollout import Rollout, Unit
from sia_core.domain.task import Task
from sia_core.engine import dispatch
from sia_core.engine.fanout import Engine, EngineConfig

TOY = Path(__file__).parents[1] / "toy"
FAULT = """
import os, signal, time
from pathlib import Path

HERE = Path({folder!r})
_verify = verify


def verify(problem, answer, lab):
    with open(HERE / "calls", "a") as calls:
        calls.write(problem.id + "\\n")
    first = problem.id == "train-3" and not (HERE / "fired").exists()
    if first:
        (HERE / "fired").touch()
    if {condition}:
        {fault}
    return _verify(problem, answer, lab)
"""
KILL = "os.kill(os.getpid(), signal.SIGKILL)"
STOP = "os.kill(os.getpid(), signal.SIGSTOP)"


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def toy(folder: Path, fault: str = "pass", condition: str = "first", more: str = "") -> Task:
    """The toy task with a verifier that misbehaves on a single problem."""
    copy = folder / "task"
    shutil.copytree(TOY, copy)
    with (copy / "task.py").open("a") as file:
        file.write(FAULT.format(folder=str(folder), fault=fault, condition=condition))
    with (copy / "task.toml").open("a") as file:
        file.write(more)
    return Task.load(copy)


def play(task: Task, said: list[str] | None = None, **settings: Any) -> list[Rollout]:
    """A rollout of each of twelve problems."""
    harness = Harness.load(task.path / "harness")
    with Engine(EngineConfig("scripted", "none", 1, **settings), task, (said or []).append) as engine:
        digest = engine.policy.digest
        units = [
            Unit(task.digest, harness.digest, digest, None, "train", f"train-{n}", 7, task.sampling) for n in range(12)
        ]
        rollouts = list(engine.run(units, harness, None))
    assert sorted(rollout.unit.key for rollout in rollouts) == sorted(unit.key for unit in units)
    return sorted(rollouts, key=lambda rollout: rollout.unit.key)


def calls(folder: Path) -> list[str]:
    return (folder / "calls").read_text().split()


def test_two_candidates_in_turns_are_not_mixed_up(tmp_path: Path) -> None:
    task = toy(tmp_path)
    poor = Harness.load(task.path / "harness")
    rich = poor.with_knobs({"menu": "rich"})
    with Engine(EngineConfig("scripted", "none", 1, workers=2), task, print) as engine:
        policy = engine.policy.digest

        def stream(harness: Harness) -> Iterator[Rollout]:
            units = [
                Unit(task.digest, harness.digest, policy, None, "train", f"train-{n}", 7, task.sampling)
                for n in range(6)
            ]
            return engine.run(units, harness, None)

        for pair in zip(stream(poor), stream(rich), strict=True):
            # One stream holds on to the workers while the other waits; both end whole.
            assert [len(rollout.turns[0].options or ()) for rollout in pair] == [2, 4]


@pytest.mark.slow
def test_graders_change_no_result(tmp_path: Path) -> None:
    task = toy(tmp_path)
    alone, graded = play(task), play(task, workers=3, graders=1)
    assert [(one.turns[0].output, one.answer, one.verdict) for one in alone] == [
        (one.turns[0].output, one.answer, one.verdict) for one in graded
    ]
    assert len({one.score for one in alone}) > 1
    assert sorted(calls(tmp_path)) == sorted(2 * [f"train-{n}" for n in range(12)])


@pytest.mark.parametrize("graders", [None, 1])
def test_killed_worker_is_replaced_and_its_unit_run_again(tmp_path: Path, graders: int | None) -> None:
    rollouts = play(toy(tmp_path, KILL), graders=graders)
    assert all(rollout.failure is None for rollout in rollouts)
    assert set(calls(tmp_path)) == {f"train-{n}" for n in range(12)} and calls(tmp_path).count("train-3") == 2


@pytest.mark.slow
def test_unit_that_kills_every_worker_is_unscored_and_the_others_are_not(tmp_path: Path) -> None:
    rollouts = play(toy(tmp_path, KILL, 'problem.id == "train-3"'))
    (lost,) = [rollout for rollout in rollouts if rollout.failure is not None]
    assert (lost.unit.problem, lost.failure and lost.failure.kind, lost.score) == ("train-3", "worker", None)
    assert calls(tmp_path).count("train-3") == dispatch.ATTEMPTS


@pytest.mark.slow
def test_stopped_worker_is_given_up_in_bounded_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A new worker has to start within it, on a busy machine too.
    monkeypatch.setattr(dispatch, "GRACE_S", 15.0)
    monkeypatch.setattr(dispatch, "TICK_S", 0.5)
    task = toy(tmp_path, STOP, more="[limits]\nseconds = 1.0\nverify_seconds = 1.0\n")
    assert all(rollout.failure is None for rollout in play(task))
    assert calls(tmp_path).count("train-3") == 2


def test_policy_that_dies_is_started_again(tmp_path: Path) -> None:
    task = toy(tmp_path)
    harness = Harness.load(task.path / "harness")
    with Engine(EngineConfig("scripted", "none", 1), task, print) as engine:
        digest = engine.policy.digest
        units = [
            Unit(task.digest, harness.digest, digest, None, "train", f"train-{n % 12}", n, task.sampling)
            for n in range(24)
        ]
        rollouts = []
        for number, rollout in enumerate(engine.run(units, harness, None)):
            rollouts.append(rollout)
            if number in (3, 9):
                ray.kill(engine._policy_actor, no_restart=False)
    assert len({rollout.unit.key for rollout in rollouts}) == 24
    assert all(rollout.failure is None for rollout in rollouts)


def test_missing_resources_of_the_cluster_are_named(tmp_path: Path) -> None:
    task = toy(tmp_path, more="[resources]\ngpus = 1\n")
    with pytest.raises(ServiceError, match=r"1 GPUs, the cluster has 2 and 0"):
        play(task)


def test_rollouts_see_no_gpu_unless_they_ask(tmp_path: Path) -> None:
    task = toy(tmp_path, '(HERE / "gpus").write_text(repr(os.environ.get("CUDA_VISIBLE_DEVICES")))')
    play(task)
    assert (tmp_path / "gpus").read_text() == "''"
