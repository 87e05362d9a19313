"""Checks on verdicts: right answers pass, worthless ones score no more than chance, hostile ones are invalid.

Every answer is verified once for each problem, and right answers again after all others, to check that verdicts repeat.
A verifier that raises fails the check that made the answer; a score outside the declared range fails only `range`.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sia_core.check import answers
from sia_core.check.report import Finding, outcome
from sia_core.domain.errors import SandboxError, TaskError
from sia_core.domain.json_data import texts
from sia_core.domain.lab import Lab
from sia_core.domain.rollout import Verdict
from sia_core.domain.task import Problem, Task

SWAPPED = 16
"""Number of problems on which the right answer of another problem is tried."""


@dataclass(frozen=True)
class Trial:
    """Result of verifying one answer to one problem."""

    problem: Problem
    made: answers.Made
    gold: Any
    """The right answer of the problem, or MISSING."""
    verdict: Verdict | None
    raised: str = ""
    out_of_range: str = ""
    seconds: float = 0.0

    def __str__(self) -> str:
        return f"{self.made.name} ({self.problem.id})"


class Trials:
    """All answers tried on a few problems of the training split.

    Raises:
        TaskError: gold() or baits() raised an error, or gave something other than data.
    """

    def __init__(self, task: Task, problems: Sequence[Problem], lab: Lab) -> None:
        self._task, self._lab, self._problems = task, lab, problems
        self.all = [self._try(problem, made) for problem in problems for made in self._made(problem)]
        self.all += list(self._swapped())
        forget: Callable[[], None] | None = getattr(task.module, "forget", None)
        if forget is not None:
            forget()  # A verdict that was remembered agrees with itself.
        some = [one for one in self.all if one.made.kind == "gold" or one.made.name == "null"]
        self.again = [self._try(trial.problem, trial.made) for trial in some if trial.verdict is not None]

    def gold(self, problem: Problem) -> Any:
        """Return the right answer of a problem, or MISSING if the task offers none."""
        found = self._task.gold(problem)
        return answers.MISSING if found is None else found

    def of(self, kind: str) -> list[Trial]:
        """Trials of one kind."""
        return [trial for trial in self.all if trial.made.kind == kind]

    def _made(self, problem: Problem) -> Iterator[answers.Made]:
        gold = self.gold(problem)
        if gold is not answers.MISSING:
            yield answers.Made("gold", "gold", gold)
        yield from answers.null_answers()
        yield from answers.constant_answers(gold)
        yield from answers.random_answers(gold, problem)
        yield from answers.copied_answers(gold, problem)
        for name, answer in self._task.baits(problem).items():
            yield answers.Made("chance", f"bait {name!r}", answer)
        yield from answers.hostile_answers(gold)

    def _swapped(self) -> Iterator[Trial]:
        """Try the right answer of one problem on the next, if they differ."""
        problems = self._task.problems("train")[: SWAPPED + 1]
        golds = [self.gold(problem) for problem in problems]
        for problem, gold, other in zip(problems[:-1], golds[:-1], golds[1:], strict=True):
            if answers.MISSING not in (gold, other) and gold != other:
                yield self._try(problem, answers.Made("chance", "gold of another problem", other))

    def _try(self, problem: Problem, made: answers.Made) -> Trial:
        started = time.perf_counter()
        verdict, raised, out_of_range = None, "", ""
        try:
            verdict = verified(self._task, problem, made.answer, self._lab)
        except SandboxError:
            raise
        except TaskError as error:
            out_of_range = error.what[:300]
        except Exception as error:  # noqa: BLE001  (task code may raise anything)
            raised = f"{type(error).__name__}: {error}"[:200]
        seconds = time.perf_counter() - started
        return Trial(problem, made, self.gold(problem), verdict, raised, out_of_range, seconds)


def verified(task: Task, problem: Problem, answer: Any, lab: Lab) -> Verdict:
    """Verify an answer that no policy gave.

    A verifier that also reads the policy's replies gets the record that the task's `record(answer)` generates.
    """
    record: Callable[[Any], Any] | None = getattr(task.module, "record", None)
    verify: Callable[..., Verdict] = task.verify
    return verify(problem, answer, lab) if record is None else verify(problem, answer, lab, record(answer))


def check_gold(task: Task, trials: Trials) -> Finding:
    """Check that right answers are valid and reach the declared score, or at least beat chance."""
    golds = trials.of("gold")
    if not golds:
        hint = "add gold(problem) -> answer to task.py: then most other checks can test more than the type of answers"
        return Finding("gold", "skipped", "the task offers no gold(problem)", hint)
    least = task.config.check.gold
    faults = []
    for trial in golds:
        if trial.raised:
            faults.append(f"{trial}: verify() raised {trial.raised}")
        elif trial.verdict is not None and not trial.verdict.valid:
            faults.append(f"{trial}: invalid: {trial.verdict.feedback[:200]}")
        elif trial.verdict is not None and not _reached(trial.verdict.score, least, task.chance):
            expected = f"at least {least:g}" if least is not None else f"more than chance ({task.chance:g})"
            faults.append(f"{trial}: score {trial.verdict.score:.4g}, not {expected}")
    scores = ", ".join(f"{trial.verdict.score:.4g}" for trial in golds if trial.verdict is not None)
    slowest = max(trial.seconds for trial in golds)
    seen = f"{len(golds)} right answers are valid, scores {scores}; the slowest took {slowest:.2f} s"
    return outcome("gold", faults, seen, "fix gold(problem) or verify(), or set [check] gold to gold's score")


def _reached(score: float, least: float | None, chance: float) -> bool:
    return score > chance if least is None else score >= least - 1e-9


def check_chance(task: Task, trials: Trials) -> Finding:
    """Check that worthless answers score at most the declared chance, in the mean over problems."""
    groups: dict[str, list[float]] = {}
    faults = []
    for trial in trials.of("chance"):
        if trial.raised:
            faults.append(f"{trial}: verify() raised {trial.raised}")
        if trial.verdict is not None:
            groups.setdefault(trial.made.name, []).append(trial.verdict.score)
    means = {name: sum(scores) / len(scores) for name, scores in groups.items()}
    over = {name: mean for name, mean in means.items() if mean > task.chance + 1e-9}
    faults += [f"{name} scores {mean:.4g}, more than {task.chance:g}" for name, mean in over.items()]
    best = max(means, key=lambda name: means[name], default="")
    seen = f"{len(means)} kinds (null, constant, random, copied, baits) score at most {means.get(best, 0):.4g}"
    hint = "let verify() refuse them, or declare the score of chance: [check] chance in task.toml"
    return outcome("chance", faults, f"{seen} (declared {task.chance:g})", hint)


def check_hostile(trials: Trials) -> Finding:
    """Check that NaN, huge, deep, duplicate and misshapen answers are invalid, and that the verifier does not raise."""
    hostile = trials.of("hostile")
    faults = []
    for trial in hostile:
        if trial.raised:
            faults.append(f"{trial}: verify() raised {trial.raised}")
        elif trial.verdict is not None and trial.verdict.valid and not _tolerated(trial, trials):
            faults.append(f"{trial}: valid, score {trial.verdict.score:.4g}")
    slowest = max((trial.seconds for trial in hostile), default=0.0)
    seen = f"{len(hostile)} answers are invalid or cost their score; the slowest took {slowest:.2f} s"
    return outcome("hostile", faults, seen, "let verify() check type, shape, size and finiteness before anything else")


def _tolerated(trial: Trial, trials: Trials) -> bool:
    """Return True if the trial's answer need not be invalid and scored less than gold."""
    best = [one.verdict.score for one in trials.of("gold") if one.problem == trial.problem and one.verdict is not None]
    return not trial.made.strict and trial.verdict is not None and bool(best) and trial.verdict.score < best[0]


def check_verdicts_repeat(task: Task, trials: Trials) -> Finding:
    """Check that an answer gets an equal verdict again after other answers."""
    tolerance = task.config.check.tolerance
    first = {(trial.problem.id, trial.made.name): trial.verdict for trial in trials.all}
    faults = []
    for trial in trials.again:
        before = first[trial.problem.id, trial.made.name]
        if before is None or trial.verdict is None:
            faults.append(f"{trial}: a verdict in one of two attempts")
        elif difference := _unlike(before, trial.verdict, tolerance):
            faults.append(f"{trial}: {difference}")
    seen = f"{len(trials.again)} answers verified twice have equal verdicts"
    seen += f" (scores within {tolerance:.0%})" if tolerance else ""
    hint = "let verify() depend on problem and answer alone; for a task that measures time: [check] tolerance"
    return outcome("verdicts", faults, seen, hint)


def _unlike(one: Verdict, two: Verdict, tolerance: float) -> str:
    if one.valid != two.valid:
        return f"valid {one.valid}, then {two.valid}"
    if abs(one.score - two.score) > tolerance * max(abs(one.score), abs(two.score)):
        return f"score {one.score!r}, then {two.score!r}"
    if not tolerance and dict(one.metrics) != dict(two.metrics):
        return "metrics differ"
    return "feedback differs" if not tolerance and one.feedback != two.feedback else ""


def check_range(task: Task, trials: Trials) -> Finding:
    """Check that every verdict is valid, with a score within score_range."""
    faults = [f"{trial}: {trial.out_of_range}" for trial in (*trials.all, *trials.again) if trial.out_of_range]
    low, high = task.config.score_range
    seen = f"{len(trials.all)} verdicts lie within [{low:g}, {high:g}]"
    return outcome("range", faults, seen, "return a Verdict within score_range, or widen score_range in task.toml")


def check_feedback(trials: Trials) -> Finding:
    """Check that the feedback on a wrong answer does not hold the right answer."""
    if not trials.of("gold"):
        return Finding("feedback", "skipped", "nothing to look for: the task offers no gold(problem)")
    faults, looked = [], 0
    for trial in trials.all:
        if trial.made.kind == "gold" or trial.verdict is None or trial.gold is answers.MISSING:
            continue
        looked += 1
        shown = "\n".join([answers.as_text(trial.made.answer), *texts(dict(trial.problem.public))])
        told = [text for text in answers.leaf_texts(trial.gold) if text in trial.verdict.feedback and text not in shown]
        if told:
            faults.append(f"feedback on {trial} holds {told[0][:60]!r} of the right answer")
    hint = "say what is wrong with an answer, never what would be right: agents read feedback"
    return outcome("feedback", faults, f"{looked} feedbacks on other answers hold nothing of the right one", hint)
