"""The Ray actors: one that holds the policy, several that play and grade rollouts."""

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import mkdtemp
from threading import Semaphore
from typing import Any, TypeVar

import ray
from ray.exceptions import RayActorError, RayTaskError

from sia_core.domain.candidate import Adapter
from sia_core.domain.harness import Harness
from sia_core.domain.rollout import Rollout, Unit
from sia_core.domain.task import Task
from sia_core.engine import ipc
from sia_core.engine.keys import PolicyEnvironment
from sia_core.engine.sandbox.protocol import Tier
from sia_core.engine.served import ServedPolicy
from sia_core.engine.vllm_server import ServerOptions
from sia_core.engine.worker import RolloutRunner
from sia_core.policy.protocol import Completion, EndpointError, Policy, Request
from sia_core.policy.registry import load_policy
from sia_core.policy.spec import ServerSpec

SLICE_S = 0.25
"""Seconds after which a worker returns what it has done, rather than begin another unit of those it was given."""
T = TypeVar("T", Unit, Rollout)


@dataclass(frozen=True)
class PolicySettings:
    """Settings of the policy that a PolicyActor holds."""

    spec: str
    threads: int
    batch: int
    folder: Path | None
    """For the log of replies, and that of a server."""
    environment: PolicyEnvironment
    server: ServerOptions | None
    """Where the spec wants a server of its own."""
    address: ipc.Address
    """For requests that do not come through Ray."""


class PolicyActor:
    """Holds one policy; every rollout worker asks it. Its methods are called in many threads."""

    # Loaded apart from the constructor: an error in an actor's constructor would lose its type and hint.

    def __init__(self, settings: PolicySettings) -> None:
        self._settings = settings
        self._served: ServedPolicy | None = None
        settings.environment.install()
        # One thread: the policy is loaded once, whoever asks first.
        self._policy = ThreadPoolExecutor(1).submit(self._load)
        ipc.Server(settings.address, self.sample)

    def describe(self) -> dict[str, Any]:
        """Return the policy's spec, digest, trainability and concurrency, which a RemotePolicy shows."""
        policy = self._policy.result()
        return {name: getattr(policy, name) for name in ("spec", "digest", "trainable", "concurrency")}

    def sample(self, request: Request) -> Completion:
        """Implement `Policy.sample`."""
        policy = self._policy.result()
        with self._places:
            return policy.sample(request)

    def probe(self, adapter: Adapter | None) -> tuple[float, ...]:
        """Implement `Policy.probe`."""
        return self._policy.result().probe(adapter)

    def close(self) -> None:
        """End the server that belongs to the policy, if any."""
        if self._served is not None:
            self._served.close()

    def _load(self) -> Policy:
        settings = self._settings
        replies = settings.folder and settings.folder / "replies.jsonl"
        policy = load_policy(
            settings.spec, threads=settings.threads, batch=settings.batch, log=replies, serve=self._start_server
        )
        self._places = Semaphore(policy.concurrency)
        return policy

    def _start_server(self, spec: ServerSpec, base: Path) -> Policy:
        assert self._settings.server is not None
        folder = self._settings.folder or Path(mkdtemp(prefix="sia-vllm-"))
        self._served = ServedPolicy(spec, base, self._settings.server, folder / "vllm.log")
        return self._served


class RemotePolicy:
    """A `Policy` whose work is done by a PolicyActor."""

    def __init__(self, actor: Any, address: ipc.Address, description: dict[str, Any]) -> None:
        self._actor, self._address = actor, address
        self.spec: str = description["spec"]
        self.digest: str = description["digest"]
        self.trainable: bool = description["trainable"]
        self.concurrency: int = description["concurrency"]

    def sample(self, request: Request) -> Completion:
        """Implement `Policy.sample`."""
        completion: Completion
        try:
            completion = ipc.client_of(self._address).ask(request)
        except ipc.ServerGoneError:  # Another machine's, or it has died: Ray starts it again.
            completion = _ask(self._actor.sample.remote(request))
        return completion

    def probe(self, adapter: Adapter | None = None) -> tuple[float, ...]:
        """Implement `Policy.probe`."""
        logprobs: tuple[float, ...] = _ask(self._actor.probe.remote(adapter))
        return logprobs


class RolloutActor:
    """Plays or grades units one after the other in its own process, with its own sandboxes."""

    def __init__(self, task: str, tier: Tier, *, hide_gpus: bool) -> None:
        if hide_gpus:
            # Ray no longer does it for actors that ask for none, and a runtime environment would take seconds.
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        self._task = task
        self._tier: Tier = tier
        self._candidate: tuple[Harness, Adapter | None, Policy]

    @cached_property
    def _runner(self) -> RolloutRunner:
        return RolloutRunner(Task.load(self._task), self._tier)

    def hold(self, harness: Harness, adapter: Adapter | None, policy: Policy) -> None:
        """Keep what the units to come have in common, rather than take it along with each."""
        self._candidate = (harness, adapter, policy)

    def run(self, units: Sequence[Unit]) -> list[Rollout]:
        """Do as `RolloutRunner.run` does with the candidate held, for the first of `units`, and for more until SLICE_S
        have passed or the policy fails one."""
        return self._slice(lambda unit: self._runner.run(unit, *self._candidate), units)

    def play(self, units: Sequence[Unit]) -> list[Rollout]:
        """Do as `RolloutRunner.play` does with the candidate held, under the limits of `run`."""
        return self._slice(lambda unit: self._runner.play(unit, *self._candidate), units)

    def grade(self, played: Sequence[Rollout]) -> list[Rollout]:
        """Do as `RolloutRunner.grade` does, under the limits of `run`."""
        return self._slice(self._runner.grade, played)

    def ready(self) -> bool:
        """True once the task is loaded and the sandbox that every unit needs is open."""
        self._runner.open()
        return True

    @staticmethod
    def _slice(work: Callable[[T], Rollout], given: Sequence[T]) -> list[Rollout]:
        ends, rollouts = time.monotonic() + SLICE_S, list[Rollout]()
        for one in given:
            rollouts.append(rollout := work(one))
            if time.monotonic() > ends or (rollout.failure is not None and rollout.failure.kind == "endpoint"):
                break
        return rollouts


def cause_of(error: RayTaskError) -> BaseException:
    """The error that an actor's own code raised, through however many actors it came."""
    cause: BaseException = error
    while isinstance(cause, RayTaskError) and isinstance(cause.cause, BaseException):
        cause = cause.cause
    return cause


def _ask(reference: Any) -> Any:
    try:
        return ray.get(reference)
    except RayTaskError as error:
        raise cause_of(error) from None
    except RayActorError as error:
        raise EndpointError(f"the policy's process died: {type(error).__name__}", where="engine") from error
