"""OpenEvolve's evaluators with numbers of libraries, missing metrics and other results."""

import math
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sia_core.check.task import measure_gold
from sia_core.domain.errors import TaskError
from sia_core.domain.rollout import Verdict
from sia_core.domain.task import Task
from sia_core.engine.worker import SandboxLab
from sia_core.importers.find import find
from sia_core.importers.write import HARNESS, Options, write_task
from tests.importers import sources

HEAD = "import numpy as np\nfrom openevolve.evaluation_result import EvaluationResult\n\n\ndef evaluate(path):\n"
OTHER = "x = 2\n"
Make = Callable[..., Task]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def imported(body: str, **options: Any) -> Task:
        folder = sources.openevolve(tmp_path / "source")
        (folder / "evaluator.py").write_text(HEAD + f"    {body}\n")
        return Task.load(write_task(find([folder]), tmp_path / "task", Options(**options)))

    return imported


def verify(task: Task, code: str, lab: SandboxLab) -> Verdict:
    return task.verify(task.problems("train")[0], {"code": code}, lab)


@pytest.mark.parametrize(
    ("body", "score"),
    [
        ("return {'combined_score': np.float32(0.25), 'runtime': 30.0}", 0.25),
        ("return {'combined_score': np.array(0.25), 'runtime': 30.0}", 0.25),
        ("return {'combined_score': np.int64(1), 'runtime': 30.0}", 1.0),
        ("return {'combined_score': np.bool_(True), 'runtime': 30.0}", 1.0),
        ("return EvaluationResult(metrics={'combined_score': np.float16(0.5), 'n': 3})", 0.5),
        ("return EvaluationResult({'combined_score': 0.5}, {'log': 'text'})", 0.5),
        ("return {np.str_('combined_score'): np.float32(0.5)}", 0.5),
        ("return {'a': np.float32(0.25), 'b': 0.75, 'name': 'x'}", 0.5),
    ],
)
def test_number_of_a_library_is_the_score(make: Make, lab: SandboxLab, body: str, score: float) -> None:
    assert verify(make(body), OTHER, lab).score == score


def test_named_metric_of_a_library_is_the_score(make: Make, lab: SandboxLab) -> None:
    found = verify(make("return {'combined_score': 1.0, 'f1': np.float32(0.5)}", metric="f1"), OTHER, lab)
    assert found.score == 0.5 and found.metrics == {"combined_score": 1.0, "f1": 0.5}


FAULTS = [
    ("return {'combined_score': '0.5', 'runtime': 30.0}", "", "gave combined_score as str, not as a number"),
    ("return {'combined_score': None, 'runtime': 30.0}", "", "gave combined_score as NoneType"),
    ("return {'combined_score': np.array([0.5]), 'runtime': 30.0}", "", "gave combined_score as ndarray"),
    ("return {'combined_score': float('nan'), 'runtime': 30.0}", "", "gave combined_score nan"),
    ("return {'accuracy': 0.5, 'runtime': 3.0}", "acuracy", "no metric 'acuracy'; it gave: accuracy, runtime"),
    ("return {'accuracy': 0.5, 'name': 'x'}", "name", "gave name as str"),
    ("return {'accuracy': 0.5}", "combined_score", "no metric 'combined_score'; it gave: accuracy"),
    ("return {}", "", "no metric 'combined_score'; it gave: none"),
]


@pytest.mark.parametrize(("body", "metric", "words"), FAULTS)
def test_missing_metric_of_the_initial_program_is_an_error(
    make: Make, lab: SandboxLab, body: str, metric: str, words: str
) -> None:
    task = make(body, metric=metric)
    with pytest.raises(TaskError) as caught:
        measure_gold(task, "strict")
    assert words in caught.value.what and "--metric" in caught.value.hint
    other = verify(task, OTHER, lab)
    assert (other.valid, other.score) == (False, 0.0) and words in other.feedback


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return 0.5", "evaluate() gave float, not a dictionary"),
        ("return None", "evaluate() gave NoneType"),
        ("return [('combined_score', 1.0)]", "evaluate() gave list"),
        ("return EvaluationResult(metrics=None)", "evaluate() gave NoneType"),
    ],
)
def test_result_of_another_type_is_named(make: Make, lab: SandboxLab, body: str, words: str) -> None:
    found = verify(make(body), OTHER, lab)
    assert not found.valid and words in found.feedback


def test_metric_that_is_not_finite_is_shown_and_not_recorded(make: Make, lab: SandboxLab) -> None:
    found = verify(make("return {'combined_score': 0.5, 'loss': np.float32('nan')}"), OTHER, lab)
    assert found.score == 0.5 and found.metrics == {"combined_score": 0.5} and "loss nan" in found.feedback


class Scalar:
    """A number of a library that is not installed here."""

    shape: tuple[int, ...] = ()

    def item(self) -> float:
        return 0.5


@pytest.mark.parametrize(
    ("metrics", "problem", "rank"),
    [
        ({"combined_score": Scalar(), "runtime": 30.0}, {}, -0.5),
        ({"a": 0.25, "b": 0.75}, {}, -0.5),
        ({"combined_score": 9.0, "f1": Scalar()}, {"metric": "f1", "named": True}, -0.5),
        ({"loss": 0.5}, {"metric": "loss", "named": True, "lower_is_better": True}, 0.5),
        ({"combined_score": "0.5", "runtime": 30.0}, {}, 1e9),
        ({"combined_score": math.nan}, {}, 1e9),
        ({"accuracy": 0.5}, {"metric": "f1", "named": True}, 1e9),
        ({}, {}, 1e9),
    ],
)
def test_trial_of_the_imported_harness_ranks_as_the_verifier(
    metrics: dict[str, Any], problem: dict[str, Any], rank: float
) -> None:
    plain = {"metric": "combined_score", "named": False, "lower_is_better": False}
    judge = runpy.run_path(str(HARNESS / "program" / "trial.py"))["judge"]
    assert judge(metrics, {**plain, **problem})[0] == rank
