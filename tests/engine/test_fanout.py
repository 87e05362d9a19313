"""Fan-out on a real Ray cluster: every unit has exactly one record, although workers and policies die."""

import shutil
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from sia_core.domain.errors import ServiceError
from sia_core.domain.harness import Harness
from sia_core.domain.rollout import Failure, Rollout, Unit
from sia_core.domain.task import Task
from sia_core.engine import actors, dispatch, ipc
from sia_core.engine.actors import RemotePolicy, RolloutActor
from sia_core.engine.fanout import Engine, EngineConfig
from sia_core.policy.protocol import Request
from sia_core.policy.scripted import ScriptedPolicy

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


def rounds(task: Task, count: int, policy: str) -> list[Unit]:
    """Units of the twelve problems, repeated with other seeds."""
    digest = Harness.load(task.path / "harness").digest
    return [Unit(task.digest, digest, policy, None, "train", f"train-{n % 12}", n, task.sampling) for n in range(count)]


def test_long_units_go_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handed = list[int]()
    take = dispatch.Dispatch._next

    def counted(self: dispatch.Dispatch) -> list[Any]:
        jobs = take(self)
        handed.append(len(jobs))
        return jobs

    monkeypatch.setattr(dispatch.Dispatch, "_next", counted)
    play(toy(tmp_path, "time.sleep(0.5)", "True"))
    assert sum(handed) == 12 and max(handed) == 1


@pytest.mark.parametrize("seconds", [0.001, 0.02, 0.1, 0.2, 1.0])
def test_short_units_are_handed_out_by_the_slice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """Test the rule alone with a worker whose clock advances only by the units it plays."""
    task, now, calls = toy(tmp_path), [0.0], list[tuple[int, int]]()
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def work(unit: Unit) -> Rollout:
        now[0] += seconds
        return Rollout(unit)

    def run(units: list[Unit]) -> list[Rollout]:
        rollouts = RolloutActor._slice(work, units)
        calls.append((len(units), len(rollouts)))
        return rollouts

    class Worker:
        hold = SimpleNamespace(remote=lambda *_: None)
        run = SimpleNamespace(remote=lambda units: partial(run, units))

    monkeypatch.setattr(ray, "wait", lambda refs, **_: (refs, []))
    monkeypatch.setattr(ray, "get", lambda ref: ref())
    policy = SimpleNamespace(digest="p")
    stream = dispatch.Dispatch(dispatch.Pool(Worker, 1), None, policy, lambda: False, 1.0)  # type: ignore[arg-type]
    units = rounds(task, 300, "p")
    rollouts = list(stream.run(iter(units), Harness.load(task.path / "harness"), None))
    assert sorted(one.unit.key for one in rollouts) == sorted(unit.key for unit in units)
    assert sum(done for _, done in calls) == 300  # None was begun twice.
    given, done = zip(*calls[len(calls) // 2 :], strict=True)
    fits = actors.SLICE_S / seconds
    assert max(given) <= min(2 * fits, dispatch.HANDFUL) or max(given) == 1
    assert max(done) >= min(fits / 2, dispatch.HANDFUL)


def test_worker_stops_at_a_failure_of_the_policy(tmp_path: Path) -> None:
    units = rounds(toy(tmp_path), 5, "p")

    def work(unit: Unit) -> Rollout:
        return Rollout(unit, failure=Failure("endpoint", "silent") if unit is units[2] else None)

    assert [one.unit for one in RolloutActor._slice(work, units)] == units[:3]


def test_units_behind_a_long_one_go_to_others(tmp_path: Path) -> None:
    (tmp_path / "fired").touch()
    task = toy(tmp_path, "time.sleep(1.5)", "problem.id == 'train-3' and len(calls_of('train-3')) == 4")
    with (task.path / "task.py").open("a") as file:
        file.write("def calls_of(name):\n    return [c for c in (HERE / 'calls').read_text().split() if c == name]\n")
    harness = Harness.load(task.path / "harness")
    with Engine(EngineConfig("scripted", "none", 1, workers=2), task, print) as engine:
        units = rounds(task, 60, engine.policy.digest)
        rollouts = list(engine.run(units, harness, None))
    assert sorted(one.unit.key for one in rollouts) == sorted(unit.key for unit in units)
    assert len(calls(tmp_path)) == 60  # None was run twice.
    assert max(one.verify_seconds for one in rollouts) > 1.5


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


def test_policy_is_asked_by_socket_or_else_by_ray(tmp_path: Path) -> None:
    task = toy(tmp_path)
    request = Request(({"role": "user", "content": "Which?"},), task.sampling, 7, None, ("a", "b"))
    with Engine(EngineConfig("scripted", "none", 1), task, print) as engine:
        policy = engine.policy
        description = {name: getattr(policy, name) for name in ("spec", "digest", "trainable", "concurrency")}
        near = RemotePolicy(None, policy._address, description)
        far = RemotePolicy(policy._actor, ipc.Address.new(), description)
        assert near.sample(request) == far.sample(request) == ScriptedPolicy().sample(request)


def test_missing_resources_of_the_cluster_are_named(tmp_path: Path) -> None:
    task = toy(tmp_path, more="[resources]\ngpus = 1\n")
    with pytest.raises(ServiceError, match=r"1 GPUs, the cluster has 2 and 0"):
        play(task)


def test_rollouts_see_no_gpu_unless_they_ask(tmp_path: Path) -> None:
    task = toy(tmp_path, '(HERE / "gpus").write_text(repr(os.environ.get("CUDA_VISIBLE_DEVICES")))')
    play(task)
    assert (tmp_path / "gpus").read_text() == "''"
