"""The Ray cluster: joining or starting it, and its capacity."""

import logging
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any

import ray
from ray._private import ray_constants
from ray.exceptions import RayError, RayTaskError
from ray.job_config import JobConfig

from sia_core.domain.errors import ServiceError, SiaError
from sia_core.domain.task_config import Resources
from sia_core.engine.actors import cause_of
from sia_core.host.external import Server, check_ray, ray_cluster
from sia_core.host.machine import scratch
from sia_core.host.machine.loopback import ADDRESS
from sia_core.host.machine.processors import cpus
from sia_core.host.machine.ray_token import provide_token
from sia_core.host.signals import keeping_handler

START_TIMEOUT_S = 180.0
STARTS = 2
"""Attempts to start a local cluster. A busy machine may exceed Ray's 30 s for its node; a second start is quicker."""


class _NoPaths(list[str]):
    """Search path of Ray's workers that stays empty.

    Ray puts the working directory and the script's directory before all others. Workers would import a package of yours
    there that is named `tasks` like ours.
    """

    def extend(self, paths: Iterable[str], /) -> None:
        """Ignore the paths."""


_SYSTEM = {"task_events_max_num_task_in_gcs": 10_000}
"""Ray settings of a local cluster. By default, Ray keeps the history of 100,000 tasks (rollouts), 6 kB each."""


_early: list[Future[bool]] = []
"""Start of a local cluster that `begin` began and `connect` has not taken over."""


def begin() -> None:
    """Begin to start a local cluster in the background, for `connect` to take over.

    The cluster's processes inherit the current environment.
    """
    if not _early and ray_cluster() is None and not ray.is_initialized():
        _early.append(Future())
        Thread(target=_come_up, args=_early, name="ray", daemon=True).start()


def _come_up(found: Future[bool]) -> None:
    try:
        found.set_result(_connect())
    except BaseException as error:  # noqa: BLE001  (`connect` raises it)
        found.set_exception(error)
    Event().wait()  # Ray's processes end with the thread that started them.


def coming_up() -> bool:
    """Return True if a local cluster is starting."""
    return any(not begun.done() for begun in _early)


def connect() -> bool:
    """Join the cluster of RAY_ADDRESS, or start a local one and return True.

    Raises:
        ServiceError: the cluster cannot be reached.
    """
    if not _early:
        return _connect()
    try:
        return _early[0].result()
    finally:
        if _early[0].done():  # False if the wait was interrupted.
            _early.clear()


def _connect() -> bool:
    if ray.is_initialized():
        return False
    cluster = ray_cluster()
    check_ray()
    if cluster:
        _init(cluster, address=cluster.address)
        return False
    options = _local()
    with _on_loopback():
        for attempt in range(1, STARTS + 1):
            try:
                _init(None, address="local", include_dashboard=False, _system_config=_SYSTEM, **options)
                break
            except ServiceError:
                ray.shutdown()
                if attempt == STARTS:
                    raise
    return True


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Let all processes of a cluster that is started meanwhile listen on the loopback only.

    Ray takes the machine's outer address in place of 127.0.0.1, because other nodes could not reach that, and then
    listens on all addresses. Where it knows no clusters of several machines it takes the loopback, as on macOS.
    """
    variable, before = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR, ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER, os.environ[variable] = False, "0"
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
        os.environ.pop(variable, None)


def _local() -> dict[str, Any]:
    """Return options that fit a local cluster to this machine.

    Raises:
        ServiceError: Ray has no directory for its sockets.
    """
    directory, size = scratch.ray_directory(), scratch.object_store()
    provide_token(directory.parent)
    folder = str(directory)
    found: dict[str, Any] = {"num_cpus": cpus(), "_node_ip_address": ADDRESS, "_temp_dir": folder}
    if size is not None:
        found["object_store_memory"] = size
        if not scratch.in_shared_memory(size):
            found["_plasma_directory"] = folder
    return found


def _init(cluster: Server | None, **how: Any) -> None:
    job = JobConfig()
    job._py_driver_sys_path = _NoPaths()
    try:
        # Ray's handlers would end the driver at any time: Python's by SystemExit(15), its core's by SIGABRT.
        with keeping_handler():
            ray.init(job_config=job, log_to_driver=False, logging_level=logging.ERROR, **how)
    except Exception as error:  # Ray raises plain exceptions too, for example if its node is not up after 30 s.
        raise _not_joined(cluster, error) from error


def _not_joined(cluster: Server | None, error: Exception) -> ServiceError:
    said = str(error).strip().splitlines()
    what = said[0] if said else type(error).__name__
    if cluster is None:
        hint = f"try again when the machine is less busy; its log is under {scratch.ray_directory()}"
        return ServiceError(f"Ray does not start: {what}", where="engine", hint=hint)
    token = (
        "the cluster's RAY_AUTH_TOKEN" if cluster.access else "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN, if it has one"
    )
    return ServiceError(
        f"Ray answers, but does not let us in: {what}",
        where=str(cluster),
        hint=f"export {token}; use the cluster's versions of Ray ({ray.__version__} is here) and Python; this machine "
        "must be a node of it (ray start --address=HOST:PORT --num-cpus=0), or RAY_ADDRESS=ray://HOST:10001",
    )


def room(cluster: dict[str, float], resources: Resources, graders: int) -> int:
    """Return the number of rollouts that fit on the cluster, at least one beside the graders.

    Raises:
        ServiceError: the cluster is too small for one rollout.
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


def take_gpus(cluster: dict[str, float], gpus: int) -> None:
    """Subtract a server's GPUs from the cluster's.

    Raises:
        ServiceError: the cluster has too few.
    """
    there = cluster.get("GPU", 0.0)
    if there < gpus:
        raise ServiceError(
            f"a vLLM server needs {gpus} GPUs, the cluster has {there:g}",
            where="engine",
            hint="name a server that runs: vllm:DIR@http://HOST:PORT/v1; or set SIA_VLLM_GPUS, 0 for vLLM on the CPU",
        )
    cluster["GPU"] = there - gpus


def get(reference: Any, timeout_s: float = START_TIMEOUT_S) -> Any:
    """Call `ray.get`; raise an error of the actor's own code as itself."""
    try:
        return ray.get(reference, timeout=timeout_s)
    except RayTaskError as error:
        cause = cause_of(error)
        if isinstance(cause, SiaError):
            raise cause from None
        raise
    except RayError as error:
        raise ServiceError(f"a Ray actor did not start: {error}", where="engine") from error
