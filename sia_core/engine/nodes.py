"""Check that every node of an existing cluster can do the work of a run.

A node needs SIA of the same version, the task with the same digest, and the run's folder at the same path, because
models, adapters and training checkpoints are passed as files. So all nodes mount one disk, or are one machine. Without
this check, a difference would show as a rollout that fails on some nodes for no visible reason.
"""

import secrets
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sia_core.domain.errors import ServiceError, SiaError
from sia_core.domain.task import Task

TIMEOUT_S = 180.0
"""Timeout for a node, which imports numpy and the task's libraries on its first task."""


@dataclass(frozen=True)
class Expected:
    """Token, task and version that each node must have."""

    token: Path
    """File of the driver."""
    content: str
    task: str
    digest: str
    version: str


def check_nodes(folder: Path, task: Task) -> int:
    """Check each node of the cluster; return the number of nodes.

    Args:
        folder: the run's directory.
        task: the run's task.

    Raises:
        ServiceError: a node lacks something.
    """
    folder.mkdir(parents=True, exist_ok=True)
    token = folder / f"cluster-{secrets.token_hex(8)}"
    expected = Expected(token, token.name, task.where, task.digest, version("sia"))
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    alive = {node["NodeID"]: str(node["NodeManagerAddress"]) for node in nodes if node["Alive"]}
    token.write_text(expected.content)
    try:
        asked = [(address, _ask(node, expected)) for node, address in alive.items()]
        for address, answer in asked:
            _judge(address, answer)
    finally:
        token.unlink(missing_ok=True)
    return len(alive)


def find_lack(expected: Expected) -> tuple[str, str] | None:
    """Return the first thing that this machine lacks and the remedy, or None."""
    try:
        seen = expected.token.read_text() == expected.content
    except OSError:
        seen = False
    if not seen:
        folder = expected.token.parent
        return f"does not see {folder}", "mount one SIA_HOME at the same path on all nodes and here"
    if version("sia") != expected.version:
        what = f"has sia {version('sia')}, the driver has {expected.version}"
        return what, "use the same image, or the same checkout, everywhere"
    try:
        digest = Task.load(expected.task).digest
    except SiaError as error:
        return f"has no task {expected.task}: {error.what}", "put the task at the same path on all nodes"
    if digest != expected.digest:
        what = f"has another version of task {expected.task} ({digest[:12]}, the driver has {expected.digest[:12]})"
        return what, "use the same files everywhere"
    return None


def _ask(node: str, expected: Expected) -> "ray.ObjectRef[tuple[str, str] | None]":
    there = NodeAffinitySchedulingStrategy(node, soft=False)
    look = ray.remote(find_lack).options(num_cpus=0, max_retries=0, scheduling_strategy=there)
    answer: ray.ObjectRef[tuple[str, str] | None] = look.remote(expected)
    return answer


def _judge(address: str, answer: "ray.ObjectRef[tuple[str, str] | None]") -> None:
    where, hint = f"Ray node {address}", "use the same image, or the same checkout, everywhere"
    try:
        lack = ray.get(answer, timeout=TIMEOUT_S)
    except GetTimeoutError as error:
        raise ServiceError(f"gave no answer in {TIMEOUT_S:g} s", where=where, hint="see `ray status`") from error
    except RayTaskError as error:
        raise ServiceError(f"cannot run SIA: {error.cause}", where=where, hint=hint) from error
    except RayError as error:
        said = str(error).strip().splitlines()
        raise ServiceError(f"cannot run SIA: {said[-1] if said else error}", where=where, hint=hint) from error
    if lack is not None:
        raise ServiceError(lack[0], where=where, hint=lack[1])
