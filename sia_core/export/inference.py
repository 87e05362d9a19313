"""Answer with an export on this machine, as the whole agent or as its policy alone.

Two models are served:

- `agent` is the agent that was scored. Your message is a problem: a JSON object as the task shows it to a harness. The
  harness solves the problem in the sandbox and asks the policy through a gateway, as in any rollout. The reply is its
  answer, as JSON unless it is text, and is not verified.
- `policy` is the base model with the adapter, as a plain chat model.

Harnesses run one at a time. Large files of a problem, earlier answers and files that a task shares are not available: a
harness that needs them fails, and the reply is its failure.
"""

import secrets
import threading
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from sia_core.domain.candidate import Adapter
from sia_core.domain.config import Tier
from sia_core.domain.hashing import derive_seed, digest_json
from sia_core.domain.rollout import Rollout, Sampling, Split, Unit
from sia_core.domain.task import Problem, Task
from sia_core.domain.task_config import TaskConfig
from sia_core.engine.worker import RolloutRunner
from sia_core.export.manifest import Export
from sia_core.policy.protocol import Completion, Policy, Request

AGENT: Literal["agent"] = "agent"
POLICY: Literal["policy"] = "policy"
MODELS = (AGENT, POLICY)


class _OneProblem(Task):
    """The task of an export, with its limits and the current problem, but without verifier and data."""

    def problem(self, split: Split, problem_id: str) -> Problem:  # noqa: ARG002  (as Task.problem)
        """Return the problem that is being solved."""
        asked: Problem = self.__dict__["asked"]
        return asked

    @cached_property
    def shared(self) -> Path | None:
        """Return None, because files that a task shares are not exported."""
        return None

    def ask(self, problem: Problem) -> None:
        """Set the problem to solve."""
        self.__dict__["asked"] = problem


class _Shared:
    """A policy for several threads, which serves no more of them at a time than its concurrency."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._free = threading.BoundedSemaphore(policy.concurrency)
        self.spec, self.digest = policy.spec, policy.digest
        self.trainable, self.concurrency = policy.trainable, policy.concurrency

    def sample(self, request: Request) -> Completion:
        """Implement `Policy.sample`."""
        with self._free:
            return self._policy.sample(request)

    def probe(self, adapter: Adapter | None = None) -> tuple[float, ...]:
        """Implement `Policy.probe`."""
        with self._free:
            return self._policy.probe(adapter)

    def close(self) -> None:
        """End the policy's thread, if any."""
        close = getattr(self._policy, "close", None)
        if close is not None:
            close()


class Inference:
    """An export, its policy and a sandbox. Thread-safe; use `close` at the end."""

    def __init__(self, export: Export, policy: Policy, tier: Tier) -> None:
        self._export = export
        self._policy = _Shared(policy)
        part = export.manifest.task
        config = TaskConfig(name=part.name, title=part.title, metric=part.metric, limits=part.limits)
        self._task = _OneProblem(export.path, config, part.digest)
        self._runner = RolloutRunner(self._task, tier)
        self._playing = threading.Lock()

    @property
    def sampling(self) -> Sampling:
        """Sampling settings of the policy for a request that names none."""
        return Sampling(**self._export.manifest.task.sampling.model_dump())

    @property
    def problem_keys(self) -> tuple[str, ...]:
        """Names of the entries in the public data of the task's problems."""
        return self._export.manifest.task.problem_keys

    def open(self) -> None:
        """Open and test the sandbox.

        Raises:
            SandboxError: the requested tier is not available.
        """
        with self._playing:
            self._runner.open()

    def solve(self, problem: Mapping[str, Any], seed: int | None = None) -> Rollout:
        """Let the harness solve a problem; the record has an answer or a failure, but no verdict.

        Args:
            problem: public data, as the task shows them.
            seed: seed of every random choice; random if None.

        Raises:
            PolicyError: the policy cannot be used.
        """
        export = self._export
        unit = Unit(
            task=export.manifest.task.digest,
            harness=export.harness.digest,
            policy=self._policy.digest,
            adapter=export.manifest.adapter,
            split="train",
            problem=digest_json(dict(problem)),
            seed=secrets.randbits(62) if seed is None else seed,
            sampling=self.sampling,
        )
        with self._playing:
            self._task.ask(Problem(unit.problem[:12], "train", problem))
            return self._runner.play(unit, export.harness, export.adapter, self._policy)

    def reply(self, request: Request) -> Completion:
        """Sample one reply of the policy with the export's adapter. Raise as `Policy.sample` does."""
        return self._policy.sample(replace(request, adapter=self._export.adapter))

    def seeds(self, seed: int | None, count: int) -> list[int]:
        """Derive seeds for several samples of one request; random if `seed` is None."""
        first = secrets.randbits(62) if seed is None else seed
        return [derive_seed("sia serve", first, number) for number in range(count)]

    def close(self) -> None:
        """End the sandbox, and the policy's thread if any."""
        with self._playing:
            self._runner.close()
        self._policy.close()
