"""Fan-out: units in, terminal records out, over a pool of Ray actors.

The driver hands each idle worker one unit and takes results as they come, so a slow rollout
never holds up the others and at most one unit a worker is in flight. A worker that dies is
restarted by Ray and its unit run again; a unit that kills its worker every time is recorded
as an infrastructure failure, not a score.
"""

import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from sia_core.candidate import Adapter
from sia_core.engine.actors import PolicyActor, RemotePolicy, RolloutActor
from sia_core.engine.sandbox.protocol import Tier
from sia_core.errors import ServiceError, SiaError
from sia_core.harness import Harness
from sia_core.rollout import Failure, Rollout, Unit

START_TIMEOUT_S = 180.0


@dataclass(frozen=True)
class EngineConfig:
    """What the engine needs to know of a run."""

    task: Path
    policy: str
    tier: Tier
    threads: int
    workers: int | None = None
    """Rollouts in flight; all CPUs of the cluster when None."""


class Engine:
    """A policy actor and rollout workers on a Ray cluster. Use as a context manager."""

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        self._owns_ray = False
        self._workers: list[Any] = []
        self._policy_actor: Any = None
        self.policy: RemotePolicy

    def __enter__(self) -> "Engine":
        self._owns_ray = connect()
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the actors, and the local cluster if this engine started it."""
        for actor in (*self._workers, *([self._policy_actor] if self._policy_actor else [])):
            ray.kill(actor)
        self._workers, self._policy_actor = [], None
        if self._owns_ray:
            ray.shutdown()
            self._owns_ray = False

    def run(self, units: Iterable[Unit], harness: Harness, adapter: Adapter | None) -> Iterator[Rollout]:
        """Run units of one candidate; yield each record as soon as it is there."""
        pending = iter(units)
        idle = list(self._workers)
        busy: dict[Any, tuple[Any, Unit]] = {}
        shared = ray.put(harness)
        while True:
            while idle and (unit := next(pending, None)) is not None:
                worker = idle.pop()
                busy[worker.run.remote(unit, shared, adapter, self.policy)] = (worker, unit)
            if not busy:
                return
            done, _ = ray.wait(list(busy), num_returns=1)
            worker, unit = busy.pop(done[0])
            idle.append(worker)
            yield _result(done[0], unit)

    def _start(self) -> None:
        config = self._config
        # Ray no longer hides GPUs from actors that ask for none; rollouts must not touch them.
        hide_gpus = {"env_vars": {"CUDA_VISIBLE_DEVICES": ""}}
        self._policy_actor = (
            ray.remote(PolicyActor)
            .options(num_cpus=0, max_restarts=3, max_task_retries=2)
            .remote(config.policy, config.threads)
        )
        self.policy = RemotePolicy(self._policy_actor, _get(self._policy_actor.describe.remote()))
        resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        count = config.workers or max(1, int(resources.get("CPU", 1)))
        actor = ray.remote(RolloutActor).options(num_cpus=1, max_restarts=5, max_task_retries=2, runtime_env=hide_gpus)
        self._workers = [actor.remote(config.task, config.tier) for _ in range(count)]
        _get([worker.ready.remote() for worker in self._workers])


def connect() -> bool:
    """Join the cluster of RAY_ADDRESS, or start a local one. True if one was started.

    Raises:
        ServiceError: the cluster cannot be reached.
    """
    if ray.is_initialized():
        return False
    address = os.environ.get("RAY_ADDRESS")
    try:
        ray.init(
            address=address or "local",
            include_dashboard=None if address else False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (ConnectionError, RuntimeError, RayError) as error:
        raise ServiceError(
            f"cannot reach Ray at {address or 'local'}: {error}",
            hint="unset RAY_ADDRESS to use this machine, or start the cluster",
        ) from error
    return not address


def _get(reference: Any) -> Any:
    """`ray.get` whose errors are those of the actor's own code."""
    try:
        return ray.get(reference, timeout=START_TIMEOUT_S)
    except RayTaskError as error:
        if isinstance(error.cause, SiaError):
            raise error.cause from None
        raise
    except RayActorError as error:
        raise ServiceError(f"a Ray actor did not start: {error}", where="engine") from error


def _result(reference: Any, unit: Unit) -> Rollout:
    try:
        rollout: Rollout = ray.get(reference)
    except RayError as error:
        return Rollout(unit, failure=Failure("worker", f"{type(error).__name__}: {error}"[:500]))
    return rollout
