"""Test that verdicts are the same through the real sandbox, and that programs without end are stopped."""

from collections.abc import Iterator

import pytest

from sia_core.domain.lab import Limits
from sia_core.domain.task import Problem, Task
from sia_core.engine.worker import SandboxLab
from tasks.denoising import candidate
from tests.labs import strict_lab
from tests.tasks.denoising.labs import InProcessLab
from tests.tasks.denoising.test_verify import CHEATS, SVD, verify


@pytest.fixture(scope="module")
def strict() -> Iterator[SandboxLab]:
    with strict_lab() as made:
        yield made


def test_honest_program_scores_the_same(task: Task, problem: Problem, strict: SandboxLab, lab: InProcessLab) -> None:
    inside, outside = verify(task, problem, SVD, strict), verify(task, problem, SVD, lab)
    assert inside.valid
    assert inside.score == pytest.approx(outside.score, abs=1e-9)


@pytest.mark.parametrize("name", ["raw counts at little mass", "NaN", "objects", "raises"])
def test_cheat_is_refused_by_the_same_rule(task: Task, problem: Problem, strict: SandboxLab, name: str) -> None:
    code, words = CHEATS[name]
    verdict = verify(task, problem, code, strict)
    assert not verdict.valid
    assert any(word in verdict.feedback for word in words.split("|")), verdict.feedback


def test_pickle_written_by_hand_is_never_opened(task: Task, problem: Problem, strict: SandboxLab) -> None:
    code = "import os\ndef denoise(X):\n    open('out.npy', 'wb').write(b'cos\\nsystem\\n')\n    os._exit(0)"
    verdict = verify(task, problem, code, strict)
    assert not verdict.valid and "two-dimensional" in verdict.feedback


def test_endless_program_is_stopped(
    task: Task, problem: Problem, strict: SandboxLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidate, "LIMITS", Limits(wall_s=1.0, cpu_s=1.0, memory_mb=512))
    verdict = verify(task, problem, "def denoise(X):\n    while True:\n        pass", strict)
    assert not verdict.valid and "timeout" in verdict.feedback


def test_program_that_takes_too_much_memory_is_stopped(task: Task, problem: Problem, strict: SandboxLab) -> None:
    verdict = verify(
        task, problem, "import numpy as np\ndef denoise(X):\n    return np.ones((1 << 20, 1 << 12))", strict
    )
    assert not verdict.valid and "memory" in verdict.feedback.lower()
