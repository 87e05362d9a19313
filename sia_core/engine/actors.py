"""The Ray actors: one that holds the policy, several that run rollouts."""

from functools import cached_property
from pathlib import Path
from typing import Any

import ray

from sia_core.candidate import Adapter
from sia_core.engine.sandbox.protocol import Tier
from sia_core.engine.worker import RolloutRunner
from sia_core.harness import Harness
from sia_core.policy.protocol import Completion, Policy, Request
from sia_core.policy.registry import load_policy
from sia_core.rollout import Rollout, Unit
from sia_core.task import Task


class PolicyActor:
    """Holds one policy; every rollout worker asks it."""

    # Loaded on first use: an error in an actor's constructor would lose its type and hint.

    def __init__(self, spec: str, threads: int) -> None:
        self._spec = spec
        self._threads = threads

    @cached_property
    def _policy(self) -> Policy:
        policy: Policy = load_policy(self._spec, threads=self._threads)
        return policy

    def describe(self) -> dict[str, Any]:
        """Spec, digest and whether the policy can be trained."""
        return {
            "spec": self._policy.spec,
            "digest": self._policy.digest,
            "trainable": self._policy.trainable,
            "concurrency": self._policy.concurrency,
        }

    def sample(self, request: Request) -> Completion:
        """As `Policy.sample`."""
        return self._policy.sample(request)

    def probe(self, adapter: Adapter | None) -> tuple[float, ...]:
        """As `Policy.probe`."""
        return self._policy.probe(adapter)


class RemotePolicy:
    """A `Policy` whose work is done by a PolicyActor."""

    def __init__(self, actor: Any, description: dict[str, Any]) -> None:
        self._actor = actor
        self.spec: str = description["spec"]
        self.digest: str = description["digest"]
        self.trainable: bool = description["trainable"]
        self.concurrency: int = description["concurrency"]

    def sample(self, request: Request) -> Completion:
        """As `Policy.sample`."""
        completion: Completion = ray.get(self._actor.sample.remote(request))
        return completion

    def probe(self, adapter: Adapter | None = None) -> tuple[float, ...]:
        """As `Policy.probe`."""
        logprobs: tuple[float, ...] = ray.get(self._actor.probe.remote(adapter))
        return logprobs


class RolloutActor:
    """Runs one unit at a time in its own process, with its own sandboxes."""

    def __init__(self, task: Path, tier: Tier) -> None:
        self._task = task
        self._tier: Tier = tier

    @cached_property
    def _runner(self) -> RolloutRunner:
        return RolloutRunner(Task.load(self._task), self._tier)

    def run(self, unit: Unit, harness: Harness, adapter: Adapter | None, policy: Policy) -> Rollout:
        """As `RolloutRunner.run`."""
        return self._runner.run(unit, harness, adapter, policy)

    def ready(self) -> bool:
        """True once the task is loaded and the sandboxes are open."""
        return self._runner is not None
