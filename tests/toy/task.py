"""A task small enough to count by hand: each colour has a worth, and blue is best."""

from collections.abc import Iterable
from typing import Any

from sia_core.lab import Lab
from sia_core.rollout import Split, Verdict
from sia_core.task import Problem

WORTH = {"red": 0.0, "green": 0.3, "blue": 1.0, "violet": 0.1}
CANARY = "toy-canary-b1f04e7a92c6d358"
COUNTS = {"train": 12, "gate": 24, "test": 12}


def canaries(split: Split) -> Iterable[str]:
    return [CANARY]


def load(split: Split) -> list[Problem]:
    private = {"worth": WORTH, "canary": CANARY}
    return [
        Problem(f"{split}-{number}", split, {"number": number}, {"number.txt": str(number).encode()}, private=private)
        for number in range(COUNTS[split])
    ]


def verify(problem: Problem, answer: Any, lab: Lab) -> Verdict:
    if not isinstance(answer, dict) or answer.get("colour") not in problem.private["worth"]:
        return Verdict(0.0, valid=False, feedback="the answer is not a colour")
    return Verdict(problem.private["worth"][answer["colour"]], feedback=f"{answer['colour']} was picked")
