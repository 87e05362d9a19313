"""The triangle multiplicative update: the answer is a program `custom_kernel(data)`, right first and then fast.

Seed, reference, comparison, clock and statistics live here, in the verifier's process; the program lives in a
sandbox and sees inputs only, new ones for every call. Whether a program is right is a function of problem and code.
How fast it is is a measurement: it is made once for a program and a problem in a process, and then remembered.
"""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from sia_core.domain.lab import LiveProgramLab
from sia_core.domain.rollout import Split, Verdict
from sia_core.domain.task import Problem
from tasks.trimul import cuda
from tasks.trimul.candidate import InvalidAnswerError, Program
from tasks.trimul.measure import measure
from tasks.trimul.programs import EAGER
from tasks.trimul.scoring import invalid, judge
from tasks.trimul.settings import chosen_device, chosen_plan
from tasks.trimul.shapes import Recipe, recipes

_REMEMBERED = 1024
_verdicts: OrderedDict[tuple[str, Program], Verdict] = OrderedDict()


def load(split: Split) -> Iterable[Problem]:
    """Problems of a split, for the device and plan that the environment names. Raises UsageError for bad names."""
    return [_problem(recipe) for recipe in recipes(chosen_device(), chosen_plan(), split)]


def verify(problem: Problem, answer: Any, lab: LiveProgramLab) -> Verdict:
    """Run {"code": source, "build": source, optional} through the problem's calls.

    Raises SandboxError when a sandbox or a device fails.
    """
    try:
        program = _read(answer)
    except InvalidAnswerError as broken:
        return invalid(str(broken))
    recipe: Recipe = problem.private
    key = (recipe.id, program)
    if key not in _verdicts:
        runs = cuda.measure if recipe.device == "cuda" else measure
        _verdicts[key] = judge(runs(program, recipe, lab), recipe)
        if len(_verdicts) > _REMEMBERED:
            _verdicts.popitem(last=False)
    return _verdicts[key]


def gold(_problem: Problem) -> dict[str, str]:
    """A right and fairly fast program, for `sia check`."""
    return {"code": EAGER}


def baits(_problem: Problem) -> dict[str, dict[str, str]]:
    """Programs that must not pay, for `sia check`."""
    head = "import torch\n\n\ndef custom_kernel(data):\n    "
    return {
        "the input handed back": {"code": f"{head}return data[0].clone()"},
        "zeros": {"code": f"{head}return torch.zeros_like(data[0])"},
        "noise": {"code": f"{head}return torch.randn_like(data[0])"},
    }


def forget() -> None:
    """Measure anew from here on; for `sia check` and the bench."""
    _verdicts.clear()


def _problem(recipe: Recipe) -> Problem:
    """Make a problem that shows a harness its device, its plan, and the timed shapes where they are public."""
    known = recipe.split == "train"
    shapes = [asdict(case.shape) for case in recipe.cases] if known else []
    public = {"device": recipe.device, "plan": recipe.plan, "shapes": shapes}
    return Problem(recipe.id, recipe.split, public=public, private=recipe)


def _read(answer: Any) -> Program:
    code = answer.get("code") if isinstance(answer, dict) else None
    made = answer.get("build", "") if isinstance(answer, dict) else None
    if not isinstance(code, str) or not isinstance(made, str):
        raise InvalidAnswerError('the answer has to be {"code": text} or {"code": text, "build": text}')
    return Program(code, made)
