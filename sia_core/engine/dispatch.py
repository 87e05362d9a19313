"""One stream of units through pools of workers: back-pressure, retries, and a breaker for a silent policy.

A worker is handed one unit at a time, or several short ones: it returns after SLICE_S, and units it has not begun go to
the next idle worker. With graders, a played rollout is passed to one of them. A unit that fails because of a worker, a
node or the policy is retried alone; after repeated failures, the failure is recorded. Each unit has exactly one record.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from sia_core.domain.candidate import Adapter
from sia_core.domain.errors import PolicyError, RecordError
from sia_core.domain.harness import Harness
from sia_core.domain.rollout import Failure, Rollout, Unit
from sia_core.engine.actors import SLICE_S, RemotePolicy, cause_of

ATTEMPTS = 3
"""Attempts at a unit before an infrastructure failure becomes its terminal record."""
TRIPS_AFTER = 3
"""Endpoint failures in a row after which nothing more is sent until the policy answers again."""
HANDFUL = 32
"""Maximum units handed to a worker at a time. Each handover costs some 3 ms of CPU, a seventh of a short rollout."""
TICK_S = 5.0
GRACE_S = 120.0
"""Seconds beyond a unit's own limits after which its worker counts as lost."""


class Pool:
    """Workers of one kind; dead workers are replaced."""

    def __init__(self, make: Callable[[], Any], count: int) -> None:
        self._make = make
        self.workers = [make() for _ in range(count)]
        self.idle = list(self.workers)
        self.told: dict[Any, Dispatch] = {}
        """Dispatch whose candidate each worker holds."""

    def replace(self, worker: Any) -> None:
        """Replace a worker by a new one."""
        ray.kill(worker)
        self.workers.remove(worker)
        self.told.pop(worker, None)
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
    """Jobs handed to a worker."""

    jobs: Sequence[_Job]
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
        self._unbegun: deque[_Job] = deque()
        """Jobs that a worker returned without beginning them."""
        self._handful = 1
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
                yield from self._land(ref, late=not done)

    def _dispatch(self) -> None:
        players, graders = self._players, self._graders
        while graders is not None and graders.idle and self._played:
            job, played = self._played.popleft()
            worker = graders.idle.pop()
            self._busy[worker.grade.remote(played)] = _Flight([job], worker, graders, time.monotonic())
        while players.idle and self._failures_in_row < TRIPS_AFTER and (jobs := self._next()):
            worker = players.idle.pop()
            if players.told.get(worker) is not self:  # A worker handles calls in order.
                worker.hold.remote(*self._candidate)
                players.told[worker] = self
            method = worker.run if graders is None else worker.play
            self._busy[method.remote([job.unit for job in jobs])] = _Flight(jobs, worker, players, time.monotonic())

    def _next(self) -> list[_Job]:
        """Return the jobs of the next idle worker. A failed job goes alone, because it may crash its worker."""
        if self._again:
            return [self._again.popleft()]
        jobs = list[_Job]()
        while len(jobs) < self._handful and (job := self._take()) is not None:
            jobs.append(job)
        return jobs

    def _take(self) -> _Job | None:
        if self._unbegun:
            return self._unbegun.popleft()
        unit = next(self._fresh, None)
        return None if unit is None else _Job(unit)

    def _land(self, ref: Any, *, late: bool) -> list[Rollout]:
        """End a flight; return the terminal records of its jobs that are complete."""
        flight = self._busy.pop(ref)
        if late:
            flight.pool.replace(flight.worker)
            return self._lost(flight, f"no answer after {self._deadline_s:.0f} s")
        try:
            rollouts: Sequence[Rollout] = ray.get(ref)
        except RayActorError as error:
            flight.pool.replace(flight.worker)
            return self._lost(flight, f"{type(error).__name__}: {error}")
        except RayTaskError as error:
            flight.pool.idle.append(flight.worker)
            cause = cause_of(error)
            if isinstance(cause, (PolicyError, RecordError)):
                raise cause from None
            return self._lost(flight, f"{type(cause).__name__}: {cause}")
        except RayError as error:  # A lost object, a lost node.
            flight.pool.idle.append(flight.worker)
            return self._lost(flight, f"{type(error).__name__}: {error}")
        flight.pool.idle.append(flight.worker)
        if flight.pool is self._players:
            self._unbegun.extend(flight.jobs[len(rollouts) :])
            self._learn(flight, len(rollouts))
        settled = [self._settle(job, flight, ref, rollout) for job, rollout in zip(flight.jobs, rollouts, strict=False)]
        return [record for record in settled if record is not None]

    def _learn(self, flight: _Flight, done: int) -> None:
        """Adapt the number of units handed out to the number that a worker finishes in SLICE_S."""
        if self._graders is not None:  # Graders take rollouts one by one.
            return
        if done < len(flight.jobs):
            self._handful = done
        elif done == self._handful and time.monotonic() - flight.began < SLICE_S / 2:
            self._handful = min(2 * done, HANDFUL)

    def _lost(self, flight: _Flight, what: str) -> list[Rollout]:
        """Fail all jobs of a flight, as the guilty one is unknown; return the records of those out of attempts."""
        ended = [self._retry(job, Failure("worker", what[:500])) for job in flight.jobs]
        return [record for record in ended if record is not None]

    def _settle(self, job: _Job, flight: _Flight, ref: Any, rollout: Rollout) -> Rollout | None:
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
