"""Single-cell denoising: the answer is a program `denoise(X)`, scored by molecular cross-validation.

The candidate's program sees the train part of the molecules only; its matrix is compared with the test part
here. Private data never enter the sandbox. Every verdict is a function of problem and code alone, given a
program that is; see scoring.py for the rules.
"""

from collections.abc import Iterable
from typing import Any

from sia_core.lab import Lab
from sia_core.rollout import Split, Verdict
from sia_core.task import Problem, Progress
from tasks.denoising import data
from tasks.denoising.candidate import MAX_CODE, InvalidAnswerError, run_candidate
from tasks.denoising.problems import Recipe, matrices, problems
from tasks.denoising.scoring import invalid, score


def prepare(progress: Progress) -> None:
    """Fetch and store the chosen data set."""
    data.prepare(progress)


def load(split: Split) -> Iterable[Problem]:
    """Problems of a split. A worker on a machine without the data fetches them first."""
    data.prepare(lambda _what, _done, _total: None)
    return problems(data.chosen(), split)


def verify(problem: Problem, answer: Any, lab: Lab) -> Verdict:
    """Run {"code": source of denoise(X)} on the problem's train counts and score what it returns."""
    code = answer.get("code") if isinstance(answer, dict) else None
    if not isinstance(code, str) or not 0 < len(code) <= MAX_CODE:
        return invalid(f'the answer has to be {{"code": text of 1 to {MAX_CODE} characters}}')
    recipe: Recipe = problem.private
    cells, genes = matrices(recipe).train.shape
    try:
        denoised = run_candidate(code, problem.files, (cells, genes), lab)
    except InvalidAnswerError as broken:
        return invalid(str(broken))
    return score(recipe, denoised)
