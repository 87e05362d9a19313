"""The Ray actors: one holds the policy, several play and grade rollouts."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import mkdtemp
from threading import Semaphore
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from sia_core.domain.candidate import Adapter
from sia_core.domain.harness import Harness
from sia_core.domain.rollout import Rollout, Unit
from sia_core.domain.task import Task
from sia_core.engine.keys import PolicyEnvironment
from sia_core.engine.sandbox.protocol import Tier
from sia_core.engine.served import ServedPolicy
from sia_core.engine.vllm_server import ServerOptions
from sia_core.engine.worker import RolloutRunner
from sia_core.policy.dialect import Dialect, Learner
from sia_core.policy.protocol import Completion, EndpointError, OverBudgetError, Policy, RejectedRequestError, Request
from sia_core.policy.registry import load_policy
from sia_core.policy.spec import ServerSpec


@dataclass(frozen=True)
class PolicySettings:
    """Settings of the policy that a PolicyActor holds."""

    spec: str
    threads: int
    batch: int
    folder: Path | None
    """Directory of the logs of replies and of a server."""
    environment: PolicyEnvironment
    server: ServerOptions | None
    """Where the spec wants a server of its own."""
    dialect: Dialect | None = None
    """Deviations of a server that are known already."""


@dataclass(frozen=True)
class Learnt:
    """Findings of a PolicyActor about its policy's server."""

    dialect: Dialect | None = None
    """None for a policy without a server."""
    answered: int = 0
    """Requests that got a reply, from the log too."""
    refused: int = 0
    """Requests that the server refused."""
    refusal: str = ""
    """Message of the last refusal."""


class PolicyActor:
    """Holds one policy for all rollout workers. The actor's methods are called in many threads."""

    # The policy is not loaded in the constructor, where Ray drops an error's type and hint.

    def __init__(self, settings: PolicySettings) -> None:
        self._settings = settings
        self._served: ServedPolicy | None = None
        settings.environment.install()
        # Counted without a lock: exact numbers are not needed, only which of them are 0.
        self._answered = self._refused = 0
        self._refusal = ""
        # The only thread of this pool loads the policy once.
        self._policy = ThreadPoolExecutor(1).submit(self._load)

    def describe(self) -> dict[str, Any]:
        """Return the policy's spec, digest, trainability and concurrency."""
        policy = self._policy.result()
        return {name: getattr(policy, name) for name in ("spec", "digest", "trainable", "concurrency")}

    def sample(self, request: Request) -> Completion:
        """Implement `Policy.sample`."""
        policy = self._policy.result()
        with self._places:
            try:
                completion = policy.sample(request)
            except OverBudgetError:
                raise  # Nothing was sent, so the server has refused nothing.
            except RejectedRequestError as error:
                self._refused, self._refusal = self._refused + 1, error.what
                raise
        self._answered += 1
        return completion

    def probe(self, adapter: Adapter | None) -> tuple[float, ...]:
        """Implement `Policy.probe`."""
        return self._policy.result().probe(adapter)

    def learnt(self) -> Learnt:
        """Return what this process has learnt of the policy's server."""
        return Learnt(getattr(self._policy.result(), "dialect", None), self._answered, self._refused, self._refusal)

    def close(self) -> None:
        """End the policy's server, if any."""
        if self._served is not None:
            self._served.close()

    def _load(self) -> Policy:
        settings = self._settings
        replies = settings.folder and settings.folder / "replies.jsonl"
        policy = load_policy(
            settings.spec,
            threads=settings.threads,
            batch=settings.batch,
            log=replies,
            serve=self._start_server,
            learner=Learner(settings.dialect),
        )
        self._places = Semaphore(policy.concurrency)
        return policy

    def _start_server(self, spec: ServerSpec, base: Path) -> Policy:
        assert self._settings.server is not None
        folder = self._settings.folder or Path(mkdtemp(prefix="sia-vllm-"))
        self._served = ServedPolicy(spec, base, self._settings.server, folder / "vllm.log")
        return self._served


class RemotePolicy:
    """A `Policy` that forwards to a PolicyActor."""

    def __init__(self, actor: Any, description: dict[str, Any]) -> None:
        self._actor = actor
        self.spec: str = description["spec"]
        self.digest: str = description["digest"]
        self.trainable: bool = description["trainable"]
        self.concurrency: int = description["concurrency"]

    def sample(self, request: Request) -> Completion:
        """Implement `Policy.sample`."""
        completion: Completion = _ask(self._actor.sample.remote(request))
        return completion

    def probe(self, adapter: Adapter | None = None) -> tuple[float, ...]:
        """Implement `Policy.probe`."""
        logprobs: tuple[float, ...] = _ask(self._actor.probe.remote(adapter))
        return logprobs

    def learnt(self) -> Learnt:
        """Return what the policy's process has learnt of its server."""
        learnt: Learnt = _ask(self._actor.learnt.remote())
        return learnt


class RolloutActor:
    """Plays or grades units one by one in its own process, with its own sandboxes."""

    def __init__(self, task: str, tier: Tier, *, hide_gpus: bool) -> None:
        if hide_gpus:
            # Ray no longer hides GPUs from actors that request none, and a runtime environment takes seconds.
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        self._task = task
        self._tier: Tier = tier
        self._candidate: tuple[Harness, Adapter | None, Policy]

    @cached_property
    def _runner(self) -> RolloutRunner:
        return RolloutRunner(Task.load(self._task), self._tier)

    def hold(self, harness: Harness, adapter: Adapter | None, policy: Policy) -> None:
        """Keep the candidate for the next units, instead of sending it with each unit."""
        self._candidate = (harness, adapter, policy)

    def run(self, unit: Unit) -> Rollout:
        """Run `RolloutRunner.run` with the candidate held."""
        return self._runner.run(unit, *self._candidate)

    def play(self, unit: Unit) -> Rollout:
        """Run `RolloutRunner.play` with the candidate held."""
        return self._runner.play(unit, *self._candidate)

    def grade(self, played: Rollout) -> Rollout:
        """Run `RolloutRunner.grade`."""
        return self._runner.grade(played)

    def ready(self) -> bool:
        """Load the task and open the sandbox that every unit needs."""
        self._runner.open()
        return True


def cause_of(error: RayTaskError) -> BaseException:
    """Return the error that an actor's own code raised, through any number of actors."""
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
