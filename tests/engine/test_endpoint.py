"""Rollouts against a model over HTTP that fails: none is scored 0 for it, none is lost, and the run waits."""

import json
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from sia_core.domain.errors import PolicyError, ServiceError
from sia_core.domain.harness import Harness
from sia_core.domain.rollout import Rollout, Unit
from sia_core.domain.task import Task
from sia_core.engine.fanout import Engine, EngineConfig
from tests.wire.server import Wire, chat, error, raw, reset, serve

TOY = Path(__file__).parents[1] / "toy"
BLUE = chat(json.dumps({"choice": "blue"}))
COUNT = 8


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def wire() -> Iterator[Wire]:
    with serve() as wire:
        wire.answer = BLUE
        yield wire


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return Task.load(shutil.copytree(TOY, tmp_path / "task"))


def play(task: Task, wire: Wire, said: list[str] | None = None, **settings: Any) -> list[Rollout]:
    files = {**Harness.load(task.path / "harness").files}
    files["agent.py"] = (
        b'async def solve(problem, ctx):\n    return {"colour": await ctx.choose("?", ["red", "blue"])}\n'
    )
    harness = Harness.from_files(files)
    listener = [] if said is None else said
    config = EngineConfig(f"openai:m@{wire.url}/v1", "none", 1, **settings)
    with Engine(config, task, listener.append) as engine:
        digest = engine.policy.digest
        units = [
            Unit(task.digest, harness.digest, digest, None, "train", f"train-{n}", 7, task.sampling)
            for n in range(COUNT)
        ]
        rollouts = list(engine.run(units, harness, None))
    assert sorted(rollout.unit.key for rollout in rollouts) == sorted(unit.key for unit in units)
    return rollouts


def test_endpoint_that_sends_garbage_is_asked_again(task: Task, wire: Wire) -> None:
    wire.faults.extend([error(500, retry_after="0"), raw(b"{}"), reset, error(429, retry_after="0"), raw(b"[1]")])
    rollouts = play(task, wire)
    assert [rollout.score for rollout in rollouts] == [1.0] * COUNT
    assert len(wire.requests) == COUNT + 5


@pytest.mark.slow
def test_slow_endpoint_costs_time_only(task: Task, wire: Wire) -> None:
    def slow(handler: Any, body: dict[str, Any]) -> None:
        time.sleep(0.3)
        BLUE(handler, body)

    wire.answer = slow
    rollouts = play(task, wire, workers=4)
    assert [rollout.score for rollout in rollouts] == [1.0] * COUNT
    assert wire.most > 1
    assert all(rollout.turns[0].latency_s >= 0.3 for rollout in rollouts)


def test_dead_endpoint_pauses_the_run_and_spends_no_rollout(task: Task, wire: Wire) -> None:
    said: list[str] = []
    wire.down = True

    def recover() -> None:
        while not said:
            time.sleep(0.05)
        wire.down = False

    doctor = threading.Thread(target=recover)
    doctor.start()
    rollouts = play(task, wire, said)
    doctor.join()
    assert [rollout.score for rollout in rollouts] == [1.0] * COUNT
    assert [line.split(" for it")[0].split(" after")[0].split(";")[0] for line in said] == [
        f"policy openai:m@{wire.url}/v1 does not answer",
        f"policy openai:m@{wire.url}/v1 answers again",
    ]
    answered = [body for _, _, body in wire.requests]
    assert len(answered) <= COUNT + 6 * (3 + 2), "requests went on while nothing answered"


@pytest.mark.slow
def test_silent_endpoint_is_an_error_after_the_wait_limit(task: Task, wire: Wire) -> None:
    wire.down = True
    with pytest.raises(ServiceError, match="has not answered for"):
        play(task, wire, patience_s=0.5)


@pytest.mark.slow
def test_request_that_always_fails_is_unscored(task: Task, wire: Wire) -> None:
    def poison(handler: Any, body: dict[str, Any]) -> None:
        first = body["seed"] == min(seed for seed in seeds)
        (error(500, retry_after="0") if first else BLUE)(handler, body)

    seeds: list[int] = []
    play(task, wire)
    seeds += [body["seed"] for _, _, body in wire.requests]
    wire.answer = poison
    rollouts = play(task, wire)
    lost = [rollout for rollout in rollouts if rollout.failure is not None]
    assert [(rollout.failure and rollout.failure.kind, rollout.score) for rollout in lost] == [("endpoint", None)]
    assert [rollout.score for rollout in rollouts if rollout.failure is None] == [1.0] * (COUNT - 1)


def test_refused_key_stops_the_run(task: Task, wire: Wire) -> None:
    wire.answer = error(401)
    with pytest.raises(PolicyError, match="OPENAI_API_KEY"):
        play(task, wire)
    assert len(wire.requests) <= 2


@pytest.mark.slow
def test_replies_are_paid_for_once(task: Task, wire: Wire, tmp_path: Path) -> None:
    first = play(task, wire, folder=tmp_path)
    again = play(task, wire, folder=tmp_path)
    assert len(wire.requests) == COUNT
    assert [one.answer for one in again] == [one.answer for one in first]
