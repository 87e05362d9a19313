"""Honest programs pass, cheats and failures score 0 and name the rule, and verdicts repeat."""

import io
import math
import time
from typing import Any

import numpy as np
import pytest

from sia_core.domain.errors import SandboxError
from sia_core.domain.lab import SandboxResult, SandboxStatus
from sia_core.domain.rollout import Verdict
from sia_core.domain.task import Problem, Task
from tasks.denoising.candidate import LIMITS, MAX_CODE
from tasks.denoising.problems import matrices, train_file
from tasks.denoising.scoring import judge
from tests.tasks.denoising.labs import Answers, CannedLab, InProcessLab

SVD = """
import numpy as np
def denoise(X):
    lib = X.sum(1, keepdims=True)
    Y = np.sqrt(X / lib * 1e4)
    m = Y.mean(0)
    u, d, v = np.linalg.svd(Y - m, full_matrices=False)
    Z = np.maximum((u[:, :8] * d[:8]) @ v[:8] + m, 0)
    return Z * Z * lib / 1e4
"""
DUMP = (
    SVD
    + """
honest = denoise
def denoise(X):
    out = honest(X)
    out[np.arange(len(X)), X.argmax(1)] += 3 * X.sum(1)
    return out
"""
)
CHEATS = {
    "raw counts at little mass": ("def denoise(X):\n    return X * 1e-3", "Poisson rule"),
    "raw counts": ("def denoise(X):\n    return X", "Poisson rule"),
    "constant": ("import numpy as np\ndef denoise(X):\n    return np.ones_like(X)", "Poisson rule"),
    "random": ("import numpy as np\ndef denoise(X):\n    return np.random.rand(*X.shape)", "Poisson rule"),
    "mass on one gene": (DUMP, "rule"),
    "zeros": ("def denoise(X):\n    return X * 0", "without any counts"),
    "NaN": ("def denoise(X):\n    X[3, 4] = float('nan')\n    return X", "1 entries are NaN or infinite"),
    "infinity": ("def denoise(X):\n    X[3, 4] = float('inf')\n    return X", "1 entries are NaN or infinite"),
    "negative": ("def denoise(X):\n    X[3, 4] = -1.0\n    return X", "1 entries are negative"),
    "sum overflows": ("def denoise(X):\n    return X + 1e308", "rescaled"),
    "denormal": ("def denoise(X):\n    return (X > 0) * 5e-324", "rule|rescaled"),
    "a cell short": ("def denoise(X):\n    return X[:-1]", "shape"),
    "transposed": ("def denoise(X):\n    return X.T", "shape"),
    "three dimensions": ("def denoise(X):\n    return X[None]", "two-dimensional"),
    "scalar": ("def denoise(X):\n    return 1.0", "two-dimensional"),
    "None": ("def denoise(X):\n    return None", "two-dimensional|error"),
    "text": ("def denoise(X):\n    return 'fine'", "status error"),
    "objects": ("def denoise(X):\n    return X.astype(object) + {1}", "status error"),
    "raises": ("def denoise(X):\n    raise ValueError('no idea')", "ValueError: no idea"),
    "no function": ("x = 1", "KeyError: 'denoise'"),
    "syntax": ("def denoise(X)", "SyntaxError"),
}


def verify(task: Task, problem: Problem, code: Any, lab: Any) -> Verdict:
    return task.verify(problem, {"code": code}, lab)


def test_honest_program_passes_with_its_figures(task: Task, problem: Problem, lab: InProcessLab) -> None:
    verdict = verify(task, problem, SVD, lab)
    assert verdict.valid and 0.05 < verdict.score < 0.5
    each = [verdict.metrics[f"{part}scaled_mse"] for part in ("", "again_", "other_")]
    assert verdict.score == verdict.metrics["strict"] == pytest.approx(sum(each) / 3, abs=1e-12)
    assert verdict.metrics["scaled_poisson"] >= 0.95 * verdict.metrics["magic_poisson"]
    assert verdict.metrics["mass_share"] <= 2 * verdict.metrics["train_mass_share"]


@pytest.mark.parametrize("name", CHEATS)
def test_cheat_scores_zero_with_the_broken_rule(task: Task, problem: Problem, lab: InProcessLab, name: str) -> None:
    code, words = CHEATS[name]
    verdict = verify(task, problem, code, lab)
    assert (verdict.score, verdict.valid) == (0.0, False)
    assert any(word in verdict.feedback for word in words.split("|")), verdict.feedback


def test_dumping_mass_would_pay_without_the_rules(task: Task, problem: Problem, lab: InProcessLab) -> None:
    honest, dumped = verify(task, problem, SVD, lab), verify(task, problem, DUMP, lab)
    assert dumped.metrics["scaled_mse"] > honest.metrics["scaled_mse"]
    assert dumped.metrics["mass_share"] > 2 * dumped.metrics["train_mass_share"]


def test_valid_answer_worse_than_no_denoising_scores_zero(task: Task, problem: Problem, lab: InProcessLab) -> None:
    code = SVD.replace("np.sqrt(X / lib * 1e4)", "X / lib * 1e4").replace("Z * Z", "Z")
    verdict = verify(task, problem, code, lab)
    if verdict.valid:
        each = [max(0.0, verdict.metrics[f"{part}scaled_mse"]) for part in ("", "again_", "other_")]
        assert verdict.score == pytest.approx(sum(each) / 3, abs=1e-12)


@pytest.mark.parametrize("answer", [None, "text", [], {}, {"code": None}, {"code": ""}, {"code": "#" * (MAX_CODE + 1)}])
def test_answer_of_another_form_is_invalid(task: Task, problem: Problem, lab: InProcessLab, answer: Any) -> None:
    verdict = task.verify(problem, answer, lab)
    assert not verdict.valid and not lab.seen


def npy(header: str, body: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY" + version + len(text).to_bytes(2, "little") + text + body


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x93NUMPY",
        b"\x93NUMPY\x01\x00\xff\xff",
        b"\x80\x04\x95" + b"x" * 1000,
        npy("{'descr': '|O', 'fortran_order': False, 'shape': (150, 2000), }", b"cos\nsystem\n(S'true'\ntR."),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (150, 2000), }", b"\0" * 1_200_000),
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (150, 2000), }"),
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (999999999, 999999999), }"),
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (-1, 2000), }"),
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (" + "(" * 200 + ", 2000), }"),
        npy("__import__('os').abort()"),
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (150, 2000), }", b"\0" * 9, version=b"\x03\x00"),
    ],
)
def test_file_made_by_hand_is_invalid_never_an_exception(task: Task, problem: Problem, data: bytes) -> None:
    verdict = verify(task, problem, SVD, CannedLab(SandboxResult("ok", files={"out.npy": data})))
    assert (verdict.score, verdict.valid) == (0.0, False)


def test_program_that_leaves_nothing_is_invalid(task: Task, problem: Problem) -> None:
    assert "no matrix" in verify(task, problem, SVD, CannedLab(SandboxResult("ok"))).feedback


@pytest.mark.parametrize("status", ["error", "timeout", "memory", "disk", "output"])
def test_program_that_is_stopped_is_invalid(task: Task, problem: Problem, status: SandboxStatus) -> None:
    verdict = verify(task, problem, SVD, CannedLab(SandboxResult(status, reason="past the limit")))
    assert not verdict.valid
    assert status in verdict.feedback and "past the limit" in verdict.feedback


def test_failed_sandbox_leaves_the_rollout_unscored(task: Task, problem: Problem) -> None:
    with pytest.raises(SandboxError, match="zygote died"):
        verify(task, problem, SVD, CannedLab(SandboxResult("infrastructure", reason="zygote died")))


def test_either_memory_order_gives_the_same_verdict(task: Task, problem: Problem, lab: InProcessLab) -> None:
    turned = SVD.replace("return Z * Z * lib / 1e4", "return np.asfortranarray(Z * Z * lib / 1e4)")
    assert verify(task, problem, turned, lab).score == pytest.approx(verify(task, problem, SVD, lab).score, abs=1e-12)


def test_verdict_repeats_and_does_not_depend_on_the_scale(task: Task, problem: Problem, lab: InProcessLab) -> None:
    first, second = verify(task, problem, SVD, lab), verify(task, problem, SVD, lab)
    assert first == second
    larger = verify(task, problem, SVD.replace("Z * Z *", "7 * Z * Z *"), lab)
    assert larger.score == pytest.approx(first.score, abs=1e-12)


def test_program_sees_train_only(task: Task, problem: Problem, lab: InProcessLab) -> None:
    verify(task, problem, SVD, lab)
    assert lab.seen[0]["X_train.npy"] == problem.files["X_train.npy"]
    parts = problem.private.parts
    assert len(lab.seen) == len(parts) == 3
    for seen, part in zip(lab.seen, parts, strict=True):
        assert set(seen) == {"main.py", "candidate.py", "X_train.npy"}, "one part at a time, and nothing else"
        assert seen["X_train.npy"] == train_file(part)
    tests = [np.ascontiguousarray(matrices(part).test[:3]).tobytes() for part in parts]
    assert not any(test in data for test in tests for seen in lab.seen for data in seen.values())


def test_matrix_of_the_problems_size_fits_the_limits(problem: Problem) -> None:
    size = max(math.prod(matrices(part).train.shape) * 8 for part in problem.private.parts)
    assert size < LIMITS.files_mb * 2**20 / 2


def test_own_work_of_the_verifier_is_quick(task: Task, problem: Problem, lab: InProcessLab) -> None:
    answers = Answers(
        [np.load(io.BytesIO(train_file(part)), allow_pickle=False) + 0.0 for part in problem.private.parts]
    )
    for part in problem.private.parts:
        judge(part, np.ones(matrices(part).train.shape))
    started = time.process_time()
    for _ in range(5):
        verify(task, problem, SVD, answers)
    assert (time.process_time() - started) / 5 < 0.15
