"""Fan-out: units in, terminal records out, over pools of Ray actors.

The driver hands each idle worker one unit, and takes results as they come. With graders, a played rollout is passed to
one of them, so that playing and grading have their own width and resources. A dead worker is replaced and its unit is
retried; after repeated failures, a unit is recorded as an infrastructure failure, not a score. A policy that stops
answering pauses the run instead of using up its rollouts.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from sia_core.domain.candidate import Adapter
from sia_core.domain.errors import ServiceError
from sia_core.domain.harness import Harness
from sia_core.domain.rollout import Rollout, Unit
from sia_core.domain.task import Task
from sia_core.engine.actors import PolicyActor, PolicySettings, RemotePolicy, RolloutActor
from sia_core.engine.cluster import START_TIMEOUT_S, connect, get, room, take_gpus
from sia_core.engine.dispatch import Dispatch, Pool
from sia_core.engine.keys import PolicyEnvironment, without_keys
from sia_core.engine.nodes import check_nodes
from sia_core.engine.sandbox.protocol import Tier
from sia_core.engine.vllm_server import ServerOptions, build_command, read_options
from sia_core.host.retrying import Schedule
from sia_core.policy.dialect import Dialect
from sia_core.policy.protocol import EndpointError
from sia_core.policy.registry import base_directory
from sia_core.policy.spec import parse_spec

STOP_TIMEOUT_S = 20.0
POLICY_THREADS = 64


@dataclass(frozen=True)
class EngineConfig:
    """Settings of a run that the engine needs."""

    policy: str
    tier: Tier
    threads: int
    batch: int = 1
    """Requests that a local policy samples together."""
    workers: int | None = None
    """Rollouts in flight; None for as many as fit on the cluster."""
    graders: int | None = None
    """Verifications in flight, by separate workers; None lets each worker grade its own rollouts."""
    folder: Path | None = None
    """Directory for a model server's log, and its replies, so that none is paid for twice."""
    dialect: Dialect | None = None
    """Deviations of the policy's server that are known already."""
    patience_s: float = 600.0
    """Seconds that a policy may stay silent before the run stops."""


class Engine:
    """A policy actor and rollout workers on a Ray cluster. Use as a context manager."""

    def __init__(self, config: EngineConfig, task: Task, say: Callable[[str], None]) -> None:
        self._config, self._task, self._say = config, task, say
        self._owns_ray = False
        self._players: Pool
        self._graders: Pool | None = None
        self._policy_actor: Any = None
        self._server: ServerOptions | None = None
        self.policy: RemotePolicy

    def __enter__(self) -> "Engine":
        with without_keys(self._config.policy):
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
        if self._server is not None and self._policy_actor is not None:
            with suppress(RayError):  # The server ends with the actor too, but only after this method returns.
                ray.get(self._policy_actor.close.remote(), timeout=STOP_TIMEOUT_S)
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
        """Run units of one candidate; yield exactly one terminal record for each unit, as soon as it is complete.

        Raises:
            PolicyError: the policy cannot be used at all.
            ServiceError: the policy stayed silent for longer than `patience_s`.
        """
        limits = self._task.config.limits
        unit_s = min(limits.seconds, harness.config.budget.seconds) + limits.verify_seconds
        dispatch = Dispatch(self._players, self._graders, self.policy, self.wait_for_policy, unit_s)
        return dispatch.run(units, harness, adapter)

    def _start(self) -> None:
        config, resources = self._config, self._task.config.resources
        if not self._owns_ray and config.folder is not None:
            nodes = check_nodes(config.folder, self._task)
            self._say(f"Ray cluster of {nodes} node{'s' if nodes > 1 else ''}")
        cluster: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        self._start_policy(cluster)
        graders = config.graders or 0
        players = config.workers or room(cluster, resources, graders)
        # More workers than CPUs share CPUs, as most of a rollout may be waiting for the policy.
        share = min(1.0, cluster.get("CPU", 1.0) / (players * resources.cpus + graders * resources.grade_cpus))
        self._players = self._pool(players, share * resources.cpus, resources.gpus)
        if graders:
            self._graders = self._pool(graders, share * resources.grade_cpus, resources.grade_gpus)
        started = [*self._players.workers, *(self._graders.workers if self._graders else [])]
        get([worker.ready.remote() for worker in started])

    def _start_policy(self, cluster: dict[str, float]) -> None:
        """Start the policy, with a server of its own where it wants one, whose GPUs `cluster` then has no more."""
        config, patience = self._config, START_TIMEOUT_S
        spec = parse_spec(config.policy)
        options: dict[str, Any] = {}
        if spec is not None and spec.own:
            self._server = server = read_options(self._task.config.update.rank)
            build_command(base_directory(config.policy), 0, server)  # Refuses invalid options.
            take_gpus(cluster, server.gpus)
            options["num_gpus"] = server.gpus
            patience += server.start_s
            self._say(f"starting a vLLM server for {config.policy}; it may take minutes")
        self._policy_actor = (
            ray.remote(PolicyActor)
            .options(num_cpus=0, max_restarts=3, max_task_retries=2, max_concurrency=POLICY_THREADS, **options)
            .remote(
                PolicySettings(
                    config.policy,
                    config.threads,
                    config.batch,
                    config.folder,
                    PolicyEnvironment.of(config.policy),
                    self._server,
                    config.dialect,
                )
            )
        )
        self.policy = RemotePolicy(self._policy_actor, get(self._policy_actor.describe.remote(), patience))

    def _pool(self, count: int, cpus: float, gpus: float) -> Pool:
        actor = ray.remote(RolloutActor).options(num_cpus=cpus, num_gpus=gpus)
        return Pool(lambda: actor.remote(self._task.where, self._config.tier, hide_gpus=not gpus), count)

    def wait_for_policy(self) -> bool:
        """Wait until the policy answers; return True if it was silent before.

        Raises:
            ServiceError: the policy stayed silent.
        """
        started, silent = time.monotonic(), False
        patience_s = self._config.patience_s + (self._server.start_s if self._server else 0.0)

        def announce(number: int, error: Exception) -> None:
            nonlocal silent
            silent = True
            if number == 1:
                what = error.what if isinstance(error, EndpointError) else str(error)
                self._say(f"policy {self._config.policy} does not answer; waiting for it ({what})")

        schedule = Schedule(first_s=1.0, longest_s=60.0, jitter=0.0, total_s=patience_s)
        try:
            schedule.run(self.policy.probe, lambda error: isinstance(error, EndpointError), on_pause=announce)
        except EndpointError as error:
            what = f"the policy has not answered for {time.monotonic() - started:.0f} s: {error.what}"
            raise ServiceError(what, where=self._config.policy, hint="see that it is reachable") from error
        if silent:
            self._say(f"policy {self._config.policy} answers again after {time.monotonic() - started:.0f} s")
        return silent
