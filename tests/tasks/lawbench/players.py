"""Policies with scripted replies, and rollouts with them."""

import random

from sia_core.domain.harness import Harness
from sia_core.domain.rollout import Rollout, Unit
from sia_core.domain.task import Problem, Task
from sia_core.engine.worker import RolloutRunner
from sia_core.policy.protocol import Completion, Request
from sia_core.policy.scripted import ScriptedPolicy, render


class Replies(ScriptedPolicy):
    """Gives free replies in their order and repeats the last; chooses at random, or the first option."""

    def __init__(self, *texts: str, first: bool = False) -> None:
        self._texts = list(texts)
        self._first = first
        self.asked: list[Request] = []

    def sample(self, request: Request) -> Completion:
        self.asked.append(request)
        if request.options is not None:
            options = request.options
            drawn = options[0] if self._first else random.Random(request.seed).choice(options)
            return Completion(drawn, render(request.messages))
        text = self._texts.pop(0) if len(self._texts) > 1 else self._texts[0]
        return Completion(text, render(request.messages))


def play(
    task: Task, runner: RolloutRunner, harness: Harness, policy: ScriptedPolicy, problem: Problem, seed: int = 0
) -> Rollout:
    unit = Unit(task.digest, harness.digest, policy.digest, None, problem.split, problem.id, seed)
    done = runner.run(unit, harness, None, policy)
    assert done.failure is None, (done.failure, done.notes)
    assert done.verdict is not None
    return done
