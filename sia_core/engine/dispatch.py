"""One stream of units through pools of workers: back-pressure, retries, and a breaker for a silent policy.

A worker is handed one unit at a time. Where there are graders, a played rollout goes to one of them. A unit that fails
for want of a worker, a node or the policy is run again; one that keeps failing is recorded as such. Each unit leaves
exactly one record.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from sia_core.domain.candidate import Adapter
from sia_core.domain.errors import PolicyError, RecordError
from sia_core.domain.harness import Harness
from sia_core.domain.rollout import Failure, Rollout, Unit
from sia_core.engine.actors import RemotePolicy, cause_of

ATTEMPTS = 3
"""Attempts at a unit before an infrastructure failure becomes its terminal record."""
TRIPS_AFTER = 3
"""Endpoint failures in a row after which nothing more is sent until the policy answers again."""
TICK_S = 5.0
GRACE_S = 120.0
"""Seconds beyond a unit's own limits after which its worker counts as lost."""


class Pool:
    """Workers of one kind; dead workers are replaced."""

    def __init__(self, make: Callable[[], Any], count: int) -> None:
        self._make = make
        self.workers = [make() for _ in range(count)]
        self.idle = list(self.workers)
        self.holding: dict[Any, Dispatch] = {}
        """Dispatch whose candidate each worker holds."""

    def replace(self, worker: Any) -> None:
        """Replace a worker by a new one."""
        ray.kill(worker)
        self.workers.remove(worker)
        self.holding.pop(worker, None)
        fresh = self._make()
        self.workers.append(fresh)
        self.idle.append(fresh)


@dataclass
class _Job:
    """A unit on its way to its terminal record."""

    unit: Unit
    attempts: int = 0
    endpoint_failures: int = 0


@dataclass
class _Flight:
    """Job in the hands of a worker."""

    job: _Job
    worker: Any
    pool: Pool
    began: float


class Dispatch:
    """Serves one call of `Engine.run`."""

    def __init__(
        self,
        players: Pool,
        graders: Pool | None,
        policy: RemotePolicy,
        wait_for_policy: Callable[[], bool],
        unit_s: float,
    ) -> None:
        """Prepare the dispatch.

        Args:
            wait_for_policy: function that returns when the policy answers, True if the policy was silent.
            unit_s: time limit of one attempt at a unit.
        """
        self._players = players
        self._graders = graders
        self._policy = policy
        self._wait_for_policy = wait_for_policy
        self._deadline_s = ATTEMPTS * unit_s + GRACE_S
        self._again: deque[_Job] = deque()
        self._played: deque[tuple[_Job, Any]] = deque()
        self._busy: dict[Any, _Flight] = {}
        self._failures_in_row = 0

    def run(self, units: Iterable[Unit], harness: Harness, adapter: Adapter | None) -> Iterator[Rollout]:
        """Yield the record of each unit as soon as it is complete."""
        self._fresh = iter(units)
        self._candidate = (harness, adapter, self._policy)
        while True:
            if self._failures_in_row >= TRIPS_AFTER and not self._busy:
                self._pause()
            self._dispatch()
            if not self._busy:
                return
            done, _ = ray.wait(list(self._busy), num_returns=1, timeout=TICK_S)
            latest = time.monotonic() - self._deadline_s
            late = [ref for ref, flight in self._busy.items() if flight.began < latest]
            for ref in done or late:
                if (record := self._land(ref, late=not done)) is not None:
                    yield record

    def _dispatch(self) -> None:
        players, graders = self._players, self._graders
        while graders is not None and graders.idle and self._played:
            done, played = self._played.popleft()
            worker = graders.idle.pop()
            self._busy[worker.grade.remote(played)] = _Flight(done, worker, graders, time.monotonic())
        while players.idle and self._failures_in_row < TRIPS_AFTER and (job := self._next()):
            worker = players.idle.pop()
            if players.holding.get(worker) is not self:  # A worker handles calls in order.
                worker.hold.remote(*self._candidate)
                players.holding[worker] = self
            method = worker.run if graders is None else worker.play
            self._busy[method.remote(job.unit)] = _Flight(job, worker, players, time.monotonic())

    def _next(self) -> _Job | None:
        if self._again:
            return self._again.popleft()
        unit = next(self._fresh, None)
        return None if unit is None else _Job(unit)

    def _land(self, ref: Any, *, late: bool) -> Rollout | None:
        """End a flight and return its job's terminal record; None if the job is not over."""
        flight = self._busy.pop(ref)
        if late:
            flight.pool.replace(flight.worker)
            return self._lost(flight, f"no answer after {self._deadline_s:.0f} s")
        try:
            rollout: Rollout = ray.get(ref)
        except RayActorError as error:
            flight.pool.replace(flight.worker)
            return self._lost(flight, f"{type(error).__name__}: {error}")
        except RayError as error:  # Of the task itself, else a lost object or a lost node.
            flight.pool.idle.append(flight.worker)
            cause = cause_of(error) if isinstance(error, RayTaskError) else error
            if isinstance(cause, (PolicyError, RecordError)):
                raise cause from None
            return self._lost(flight, f"{type(cause).__name__}: {cause}")
        flight.pool.idle.append(flight.worker)
        return self._settle(flight, ref, rollout)

    def _lost(self, flight: _Flight, what: str) -> Rollout | None:
        return self._retry(flight.job, Failure("worker", what[:500]))

    def _settle(self, flight: _Flight, ref: Any, rollout: Rollout) -> Rollout | None:
        job = flight.job
        if rollout.failure is not None and rollout.failure.kind == "endpoint":
            self._failures_in_row += 1
            job.endpoint_failures += 1
            return self._retry(job, rollout.failure, rollout)
        self._failures_in_row = 0
        if flight.pool is self._players and self._graders is not None and rollout.failure is None:
            self._played.append((job, ref))
            return None
        return rollout

    def _retry(self, job: _Job, failure: Failure, rollout: Rollout | None = None) -> Rollout | None:
        job.attempts += 1
        # While the policy may be silent, its failures do not use up a unit's attempts.
        if job.attempts < ATTEMPTS or (failure.kind == "endpoint" and self._failures_in_row >= TRIPS_AFTER):
            self._again.append(job)
            return None
        return rollout or Rollout(job.unit, failure=failure)

    def _pause(self) -> None:
        silent = self._wait_for_policy()
        self._failures_in_row = 0
        for job in self._again:
            if silent:
                job.attempts -= job.endpoint_failures
                job.endpoint_failures = 0
            # Otherwise the policy answers other requests, so these attempts count.
            job.attempts = min(job.attempts, ATTEMPTS - 1)
