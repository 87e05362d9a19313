"""Single-cell denoising: the answer is a program `denoise(X)`, scored by molecular cross-validation.

The candidate's program sees the train part of the molecules only; its matrix is compared with the test part
here. It is run on the public split, then on a hidden second split and on a hidden second data set, each time alone,
until it breaks a rule. Private data never enter the sandbox. Every verdict is a function of problem and code alone,
given a program that is; see scoring.py for the rules.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

from sia_core.domain.errors import UsageError
from sia_core.domain.lab import Lab
from sia_core.domain.rollout import Split, Verdict
from sia_core.domain.task import Problem, Progress
from tasks.denoising import baits as bait_programs
from tasks.denoising import data
from tasks.denoising.candidate import MAX_CODE, InvalidAnswerError, run_candidate
from tasks.denoising.problems import Mode, Plan, matrices, problems, train_file
from tasks.denoising.scoring import NO_FIGURES, Judged, compat, invalid, judge, verdict

MODE = "SIA_DENOISING_MODE"


def prepare(progress: Progress) -> None:
    """Fetch and store the chosen data sets."""
    data.prepare(progress)


def data_sets() -> Mapping[str, Path]:
    """Every data set the task knows, and where it is kept."""
    return {source: data.file_of(source) for source in get_args(data.Source)}


def prepare_set(name: str, progress: Progress) -> None:
    """Fetch and store one data set, chosen or not."""
    data.store_counts(data.source_named(name), progress)


def load(split: Split) -> Iterable[Problem]:
    """Problems of a split. A worker on a machine without the data fetches them first."""
    data.prepare(lambda _what, _done, _total: None)
    return problems(data.chosen(), mode(), split)


def mode() -> Mode:
    """Which score decides: strict, unless the environment asks for openproblems_compat.

    Raises:
        UsageError: it asks for anything else.
    """
    asked = os.environ.get(MODE, "").strip() or "strict"
    for known in get_args(Mode):
        if asked == known:
            return known  # type: ignore[no-any-return]
    raise UsageError(f"{MODE}={asked!r} is no mode", hint=f"use one of: {', '.join(get_args(Mode))}")


def gold(_problem: Problem) -> dict[str, str]:
    """A sound program; nobody knows the best one."""
    return {"code": bait_programs.SOUND}


def baits(_problem: Problem) -> dict[str, dict[str, str]]:
    """Programs that please a metric, or nobody."""
    return {name: {"code": code} for name, code in bait_programs.BAITS.items()}


def verify(problem: Problem, answer: Any, lab: Lab) -> Verdict:
    """Run {"code": source of denoise(X)} on each part's train counts and score what it returns."""
    code = answer.get("code") if isinstance(answer, dict) else None
    if not isinstance(code, str) or not 0 < len(code) <= MAX_CODE:
        return invalid(f'the answer has to be {{"code": text of 1 to {MAX_CODE} characters}}')
    plan: Plan = problem.private
    judged: list[Judged] = []
    published = dict(NO_FIGURES)
    for recipe in plan.parts:
        cells, genes = matrices(recipe).train.shape
        try:
            denoised = run_candidate(code, train_file(recipe), (cells, genes), lab)
        except InvalidAnswerError as broken:
            return verdict(judged, published, plan.mode, str(broken))
        if recipe == plan.own:
            published = compat(recipe, denoised)
        judged.append(judge(recipe, denoised))
        if judged[-1].broken:
            break
    return verdict(judged, published, plan.mode)
