"""Fan-out: units in, terminal records out, over pools of Ray actors.

The driver hands each idle worker one unit and takes results as they come, so a slow rollout
never holds up the others and at most one unit a worker is in flight. Where there are graders,
a played rollout goes on to one of them, so playing and grading have their own width and their own
resources. Whatever dies is replaced and its unit run again; what keeps failing is recorded as
an infrastructure failure, not a score. A policy that stops answering pauses the run instead
of using up its rollouts.
"""

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from sia_core.candidate import Adapter
from sia_core.engine.actors import PolicyActor, RemotePolicy, RolloutActor, cause_of
from sia_core.engine.sandbox.protocol import Tier
from sia_core.errors import PolicyError, ServiceError, SiaError
from sia_core.harness import Harness
from sia_core.policy.protocol import EndpointError
from sia_core.rollout import Failure, Rollout, Unit
from sia_core.task import Resources, Task

START_TIMEOUT_S = 180.0
ATTEMPTS = 3
"""Times a unit is run before an infrastructure failure is its terminal record."""
TRIPS_AFTER = 3
"""Endpoint failures in a row after which nothing more is sent until the policy answers again."""
POLICY_THREADS = 64
TICK_S = 5.0
GRACE_S = 120.0
"""Beyond what a unit may take by its limits, before its worker counts as lost."""


@dataclass(frozen=True)
class EngineConfig:
    """What the engine needs to know of a run."""

    policy: str
    tier: Tier
    threads: int
    batch: int = 1
    """Requests that a local policy samples together."""
    workers: int | None = None
    """Rollouts in flight. None: as many as the cluster has room for."""
    graders: int | None = None
    """Verifications in flight, by workers of their own. None: each worker grades what it played."""
    replies: Path | None = None
    """Where the replies of a policy that costs money are kept, so that none is paid for twice."""
    patience_s: float = 600.0
    """How long a policy may stay silent before the run stops."""


@dataclass
class _Job:
    """A unit on its way to its terminal record."""

    unit: Unit
    attempts: int = 0
    endpoint_failures: int = 0


@dataclass
class _Flight:
    """A job in the hands of a worker."""

    job: _Job
    worker: Any
    pool: "_Pool"
    deadline: float = 0.0


class _Pool:
    """Workers of one kind; a dead one is replaced."""

    def __init__(self, make: Callable[[], Any], count: int) -> None:
        self._make = make
        self.workers = [make() for _ in range(count)]
        self.idle = list(self.workers)

    def replace(self, worker: Any) -> None:
        """End a worker and start another in its place."""
        ray.kill(worker)
        self.workers.remove(worker)
        fresh = self._make()
        self.workers.append(fresh)
        self.idle.append(fresh)


class Engine:
    """A policy actor and rollout workers on a Ray cluster. Use as a context manager."""

    def __init__(self, config: EngineConfig, task: Task, say: Callable[[str], None]) -> None:
        self._config = config
        self._task = task
        self._say = say
        self._owns_ray = False
        self._players: _Pool
        self._graders: _Pool | None = None
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
        pools = [pool for pool in (self.__dict__.get("_players"), self._graders) if pool is not None]
        for actor in (*chain.from_iterable(pool.workers for pool in pools), self._policy_actor):
            if actor is not None:
                ray.kill(actor)
        self.__dict__.pop("_players", None)
        self._graders = self._policy_actor = None
        if self._owns_ray:
            ray.shutdown()
            self._owns_ray = False

    def run(self, units: Iterable[Unit], harness: Harness, adapter: Adapter | None) -> Iterator[Rollout]:
        """Run units of one candidate; yield each terminal record, exactly one a unit, as soon as it is there.

        Raises:
            PolicyError: the policy cannot be used at all.
            ServiceError: the policy stayed silent for longer than the engine's patience.
        """
        return _Dispatch(self, units, harness, adapter).results()

    def _start(self) -> None:
        config, resources = self._config, self._task.config.resources
        self._policy_actor = (
            ray.remote(PolicyActor)
            .options(num_cpus=0, max_restarts=3, max_task_retries=2, max_concurrency=POLICY_THREADS)
            .remote(config.policy, config.threads, config.batch, config.replies)
        )
        self.policy = RemotePolicy(self._policy_actor, _get(self._policy_actor.describe.remote()))
        cluster: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        graders = config.graders or 0
        players = config.workers or _room(cluster, resources, graders)
        # More workers than CPUs share them: most of a rollout may be waiting for the policy.
        share = min(1.0, cluster.get("CPU", 1.0) / (players * resources.cpus + graders * resources.grade_cpus))
        self._players = self._pool(players, share * resources.cpus, resources.gpus)
        if graders:
            self._graders = self._pool(graders, share * resources.grade_cpus, resources.grade_gpus)
        started = [*self._players.workers, *(self._graders.workers if self._graders else [])]
        _get([worker.ready.remote() for worker in started])

    def _pool(self, count: int, cpus: float, gpus: float) -> _Pool:
        # Ray no longer hides GPUs from actors that ask for none; rollouts must not touch them.
        environment = {"env_vars": {"CUDA_VISIBLE_DEVICES": ""}} if not gpus else {}
        actor = ray.remote(RolloutActor).options(num_cpus=cpus, num_gpus=gpus, runtime_env=environment)
        return _Pool(lambda: actor.remote(self._task.path, self._config.tier), count)

    def _wait_for_policy(self) -> bool:
        """Wait until the policy answers. True if it was indeed silent.

        Raises:
            ServiceError: it stayed silent.
        """
        started, pause, silent = time.monotonic(), 1.0, False
        while True:
            try:
                self.policy.probe()
                break
            except EndpointError as error:
                waited = time.monotonic() - started
                if waited > self._config.patience_s:
                    what = f"the policy has not answered for {waited:.0f} s: {error.what}"
                    raise ServiceError(what, where=self._config.policy, hint="see that it is reachable") from error
                if not silent:
                    self._say(f"policy {self._config.policy} does not answer; waiting for it ({error.what})")
                silent = True
            time.sleep(pause)
            pause = min(2 * pause, 60.0)
        if silent:
            self._say(f"policy {self._config.policy} answers again after {time.monotonic() - started:.0f} s")
        return silent


class _Dispatch:
    """One call of `Engine.run`."""

    def __init__(self, engine: Engine, units: Iterable[Unit], harness: Harness, adapter: Adapter | None) -> None:
        self._engine = engine
        self._fresh = iter(units)
        self._again: deque[_Job] = deque()
        self._played: deque[tuple[_Job, Any]] = deque()
        self._busy: dict[Any, _Flight] = {}
        self._harness = ray.put(harness)
        self._adapter = adapter
        self._failures_in_row = 0
        limits = engine._task.config.limits
        wall = min(limits.seconds, harness.config.budget.seconds)
        self._deadline_s = ATTEMPTS * (wall + limits.verify_seconds) + GRACE_S

    def results(self) -> Iterator[Rollout]:
        while True:
            if self._failures_in_row >= TRIPS_AFTER and not self._busy:
                self._pause()
            self._dispatch()
            if not self._busy:
                return
            done, _ = ray.wait(list(self._busy), num_returns=1, timeout=TICK_S)
            late = [ref for ref, flight in self._busy.items() if time.monotonic() > flight.deadline]
            for ref in done or late:
                record = self._land(ref, late=not done)
                if record is not None:
                    yield record

    def _dispatch(self) -> None:
        players, graders = self._engine._players, self._engine._graders
        while graders is not None and graders.idle and self._played:
            job, played = self._played.popleft()
            worker = graders.idle.pop()
            self._launched(worker.grade.remote(played), _Flight(job, worker, graders))
        while players.idle and self._failures_in_row < TRIPS_AFTER and (fresh := self._next()) is not None:
            worker = players.idle.pop()
            method = worker.run if graders is None else worker.play
            ref = method.remote(fresh.unit, self._harness, self._adapter, self._engine.policy)
            self._launched(ref, _Flight(fresh, worker, players))

    def _launched(self, ref: Any, flight: _Flight) -> None:
        flight.deadline = time.monotonic() + self._deadline_s
        self._busy[ref] = flight

    def _next(self) -> _Job | None:
        if self._again:
            return self._again.popleft()
        unit = next(self._fresh, None)
        return None if unit is None else _Job(unit)

    def _land(self, ref: Any, *, late: bool) -> Rollout | None:
        """What came of a flight: a terminal record, or None when the job goes on."""
        flight = self._busy.pop(ref)
        if late:
            flight.pool.replace(flight.worker)
            return self._retry(flight.job, Failure("worker", f"no answer after {self._deadline_s:.0f} s"))
        try:
            rollout: Rollout = ray.get(ref)
        except RayActorError as error:
            flight.pool.replace(flight.worker)
            return self._retry(flight.job, Failure("worker", f"{type(error).__name__}: {error}"[:500]))
        except RayTaskError as error:
            flight.pool.idle.append(flight.worker)
            cause = cause_of(error)
            if isinstance(cause, PolicyError):
                raise cause from None
            return self._retry(flight.job, Failure("worker", f"{type(cause).__name__}: {cause}"[:500]))
        except RayError as error:  # A lost object, a lost node.
            flight.pool.idle.append(flight.worker)
            return self._retry(flight.job, Failure("worker", f"{type(error).__name__}: {error}"[:500]))
        flight.pool.idle.append(flight.worker)
        return self._settle(flight, ref, rollout)

    def _settle(self, flight: _Flight, ref: Any, rollout: Rollout) -> Rollout | None:
        if rollout.failure is not None and rollout.failure.kind == "endpoint":
            self._failures_in_row += 1
            flight.job.endpoint_failures += 1
            return self._retry(flight.job, rollout.failure, rollout)
        self._failures_in_row = 0
        if flight.pool is self._engine._players and self._engine._graders is not None and rollout.failure is None:
            self._played.append((flight.job, ref))
            return None
        return rollout

    def _retry(self, job: _Job, failure: Failure, rollout: Rollout | None = None) -> Rollout | None:
        job.attempts += 1
        # While the policy may be silent altogether, its failures are not the last word on a unit.
        if job.attempts < ATTEMPTS or (failure.kind == "endpoint" and self._failures_in_row >= TRIPS_AFTER):
            self._again.append(job)
            return None
        return rollout or Rollout(job.unit, failure=failure)

    def _pause(self) -> None:
        silent = self._engine._wait_for_policy()
        self._failures_in_row = 0
        for job in self._again:
            if silent:
                job.attempts -= job.endpoint_failures
                job.endpoint_failures = 0
            # Else the policy answers, only not these: they have had their tries.
            job.attempts = min(job.attempts, ATTEMPTS - 1)


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


def _room(cluster: dict[str, float], resources: Resources, graders: int) -> int:
    """How many rollouts the cluster has room for, at least one beside the graders.

    Raises:
        ServiceError: not even one.
    """
    cpus, gpus = cluster.get("CPU", 1.0), cluster.get("GPU", 0.0)
    if cpus < resources.cpus or gpus < resources.gpus + graders * resources.grade_gpus:
        raise ServiceError(
            f"a rollout needs {resources.cpus:g} CPUs and {resources.gpus:g} GPUs, "
            f"the cluster has {cpus:g} and {gpus:g}",
            where="engine",
            hint="change [resources] in task.toml, or use a larger cluster",
        )
    rooms = [max(1, int((cpus - graders * resources.grade_cpus) / resources.cpus))]
    if resources.gpus:
        rooms.append(max(1, int((gpus - graders * resources.grade_gpus) / resources.gpus)))
    return min(rooms)


def _get(reference: Any) -> Any:
    """`ray.get` whose errors are those of the actor's own code."""
    try:
        return ray.get(reference, timeout=START_TIMEOUT_S)
    except RayTaskError as error:
        cause = cause_of(error)
        if isinstance(cause, SiaError):
            raise cause from None
        raise
    except RayError as error:
        raise ServiceError(f"a Ray actor did not start: {error}", where="engine") from error
