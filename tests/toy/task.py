"""A task small enough to count by hand: each colour has a worth, and blue is best."""

from collections.abc import Iterable, Sequence
from typing import Any

from sia_core.domain.lab import Lab
from sia_core.domain.rollout import Rollout, Split, Verdict
from sia_core.domain.task import Problem

WORTH = {"red": 0.0, "green": 0.3, "blue": 1.0, "violet": 0.1}
CANARY = "toy-canary-b1f04e7a92c6d358"
COUNTS = {"train": 12, "gate": 24, "test": 12}
FIRST = {"train": 0, "gate": 100, "test": 200}


def canaries(split: Split) -> Iterable[str]:
    return [CANARY]


def load(split: Split) -> list[Problem]:
    private = {"worth": WORTH, "canary": CANARY}
    return [
        Problem(f"{split}-{number}", split, {"number": shown}, {"number.txt": str(shown).encode()}, private=private)
        for number, shown in enumerate(range(FIRST[split], FIRST[split] + COUNTS[split]))
    ]


def report(split: Split, rollouts: Sequence[Rollout]) -> dict[str, float | str]:
    return {"rollouts": len(rollouts), "split": split}


def verify(problem: Problem, answer: Any, lab: Lab) -> Verdict:
    colour = answer.get("colour") if isinstance(answer, dict) else None
    if not isinstance(colour, str) or colour not in problem.private["worth"]:
        return Verdict(0.0, valid=False, feedback="the answer is not a colour")
    return Verdict(problem.private["worth"][colour], feedback=f"{colour} was picked")


def gold(problem: Problem) -> Any:
    return {"colour": "blue"}


def baits(problem: Problem) -> dict[str, Any]:
    return {"the plainest colour": {"colour": "red"}}
