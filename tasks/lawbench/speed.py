"""Cost of verifying the right answer to every sealed case, with a record as a harness with votes leaves it."""

import time

from sia_core.domain.lab import Lab, Limits, SandboxResult
from sia_core.domain.rollout import Turn
from sia_core.domain.task import Task
from tasks.lawbench.data import labels


class NoLab:
    """No verdict of this task runs a program."""

    def run(self, *_: object, **__: object) -> SandboxResult:
        """Refuse to run a program."""
        raise AssertionError(f"lawbench runs no programs, under no {Limits.__name__}")


def seconds_of_all(votes: int = 5) -> float:
    """CPU seconds for one verification of each sealed case, with `votes` choices among all charges each."""
    task, lab, charges = Task.load("lawbench"), _lab(), labels()
    problems = task.problems("test")
    asked = [(one, one.private.case.label) for one in problems]
    played = [(one, label, (Turn("choose", "", label, None, 1.0, options=charges),) * votes) for one, label in asked]
    started = time.process_time()
    for problem, label, turns in played:
        task.verify(problem, {"label": label}, lab, turns)
    return time.process_time() - started


def _lab() -> Lab:
    return NoLab()
