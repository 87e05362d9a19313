"""Ways to score without denoising are refused with a reason: gaps in the metrics, memory, installed files."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from sia_core.domain.errors import SandboxError
from sia_core.domain.lab import Limits
from sia_core.domain.task import Problem, Task
from sia_core.engine.sandbox import open_sandbox
from sia_core.engine.sandbox.protocol import Tier
from sia_core.engine.worker import SandboxLab
from tasks.denoising import candidate
from tasks.denoising.baits import BAITS, SOUND
from tasks.denoising.magic import magic
from tasks.denoising.problems import matrices
from tests.tasks.denoising.conftest import reduced_counts
from tests.tasks.denoising.labs import Answers, InProcessLab

REASONS = {
    "X as it is": "Poisson rule",
    "X at little mass": "Poisson rule",
    "a constant": "Poisson rule",
    "nothing": "without any counts",
    "the mean of each gene": "Poisson rule",
    "random numbers": "Poisson rule",
    "mass dumped on one gene a cell": "rule",
    "cells in another order": "Poisson rule",
    "genes in another order": "Poisson rule",
    "NaN": "1 entries are NaN or infinite",
    "an infinity": "1 entries are NaN or infinite",
    "a negative entry": "entries are negative",
    "a cell short": "the result has shape",
    "transposed": "the result has shape",
}


@pytest.mark.parametrize("name", BAITS)
def test_bait_scores_zero_with_the_reason(task: Task, problem: Problem, lab: InProcessLab, name: str) -> None:
    verdict = task.verify(problem, {"code": BAITS[name]}, lab)
    assert (verdict.score, verdict.valid, verdict.metrics["strict"]) == (0.0, False, 0.0)
    assert REASONS[name] in verdict.feedback, verdict.feedback


def test_knowing_the_public_split_by_heart_fails_on_the_hidden_one(task: Task, problem: Problem) -> None:
    """Use the test part itself as the answer, in the order of the public part."""
    own, again, other = (matrices(part) for part in problem.private.parts)
    learnt = own.test + 0.1 * magic(own.train)
    fitted = learnt[: len(again.train), : again.train.shape[1]]
    padded = np.pad(fitted, ((0, 0), (0, again.train.shape[1] - fitted.shape[1])), constant_values=0.01)
    verdict = task.verify(problem, {"code": "..."}, Answers([learnt, padded, magic(other.train)]))
    assert verdict.metrics["scaled_mse"] > 0.5
    assert (verdict.score, verdict.valid) == (0.0, False)
    assert "hidden second split: " in verdict.feedback


def test_knowing_one_data_set_by_heart_fails_on_the_other(task: Task, problem: Problem) -> None:
    own, again, other = (matrices(part) for part in problem.private.parts)
    answers = Answers([own.test + 0.1 * magic(own.train), again.test + 0.1 * magic(again.train), other.train])
    verdict = task.verify(problem, {"code": "..."}, answers)
    assert verdict.metrics["again_scaled_mse"] > 0.5
    assert (verdict.score, verdict.valid) == (0.0, False)
    assert "hidden second data set: Poisson rule" in verdict.feedback


def test_genes_cannot_be_known_by_their_place(task: Task, lab: InProcessLab) -> None:
    """Apply a gene profile of a problem to the cells of another problem by position."""
    first, second = task.problems("train")[:2]
    profile = matrices(first.private.own).train.sum(axis=0)
    text = ",".join(map(str, profile.tolist()))
    code = (
        f"import numpy as np\nP = np.array([{text}], dtype=float)\n"
        "def denoise(X):\n"
        "    p = np.resize(P, X.shape[1]) + 1e-3\n"
        "    return 0.5 * X + 0.5 * X.sum(1, keepdims=True) * p / p.sum()\n"
    )
    at_home = task.verify(first, {"code": code}, lab)
    abroad = task.verify(second, {"code": code}, lab)
    assert abroad.metrics["scaled_poisson"] < at_home.metrics["scaled_poisson"]
    assert (at_home.score, abroad.score) == (0.0, 0.0)
    assert not abroad.valid


def test_order_of_rows_carries_no_information(task: Task, problem: Problem) -> None:
    """Check that neighbouring rows are as alike as any others, so that cells of a kind are not adjacent."""
    for part in problem.private.parts:
        train = np.log1p(matrices(part).train.astype(float))
        train = train / np.linalg.norm(train, axis=1, keepdims=True)
        alike = train @ train.T
        beside, all_pairs = np.mean(np.diag(alike, 1)), np.mean(alike[np.triu_indices(len(alike), 1)])
        spread = np.std(alike[np.triu_indices(len(alike), 1)]) / np.sqrt(len(alike))
        assert abs(beside - all_pairs) < 4 * spread


@pytest.fixture(scope="module", params=["strict", "landlock"])
def confined(request: pytest.FixtureRequest) -> Iterator[SandboxLab]:
    tier: Tier = request.param
    try:
        sandbox = open_sandbox(tier)
    except SandboxError as error:
        pytest.skip(f"no {tier} sandbox here: {error.what}")
    yield SandboxLab(sandbox)
    sandbox.close()


def test_hidden_data_set_cannot_be_read_from_installed_packages(confined: SandboxLab) -> None:
    if reduced_counts() is None:
        pytest.skip("scanpy is not installed")
    code = (
        "import importlib.util, pathlib\n"
        "found = importlib.util.find_spec('scanpy')\n"
        "folder = pathlib.Path(found.origin if found else '/scanpy/x').parent / 'datasets'\n"
        "file = folder / '10x_pbmc68k_reduced.h5ad'\n"
        "try:\n    print('read', len(file.read_bytes()))\nexcept OSError as error:\n    print('refused')\n"
    )
    done = confined.run({"main.py": code.encode()}, Limits(wall_s=20))
    assert (done.status, done.stdout) == ("ok", "refused\n"), done.stderr


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("def denoise(X):\n    while True:\n        pass", "timeout"),
        ("import numpy as np\ndef denoise(X):\n    return np.ones((1 << 20, 1 << 12))", "memory"),
        ("def denoise(X):\n    open('big', 'wb').write(b'0' * (200 << 20))\n    return X", "disk"),
        ("def denoise(X):\n    print('x' * (1 << 24))\n    return X", "output"),
        ("import os\ndef denoise(X):\n    os._exit(0)", "no matrix"),
        ("import socket\ndef denoise(X):\n    socket.create_connection(('1.1.1.1', 80), 1)\n    return X", "error"),
        ("import os\ndef denoise(X):\n    os.symlink('/etc/hostname', 'out.npy')\n    os._exit(0)", "no matrix"),
    ],
)
def test_programs_beyond_the_limits_score_zero(
    task: Task, problem: Problem, confined: SandboxLab, monkeypatch: pytest.MonkeyPatch, code: str, words: str
) -> None:
    monkeypatch.setattr(candidate, "LIMITS", Limits(wall_s=3.0, cpu_s=2.0, memory_mb=512, disk_mb=64, output_kb=16))
    verdict = task.verify(problem, {"code": code}, confined)
    assert (verdict.score, verdict.valid) == (0.0, False)
    assert words in verdict.feedback.lower(), verdict.feedback


def test_program_keeps_nothing_between_parts(task: Task, problem: Problem, confined: SandboxLab) -> None:
    code: Any = SOUND + (
        "\nimport os, pathlib\nsame = denoise\n"
        "def denoise(X):\n"
        "    for place in ('.', '/tmp', '/dev/shm'):\n"
        "        file = pathlib.Path(place) / 'kept'\n"
        "        assert not file.exists(), place\n"
        "        try:\n            file.write_text('kept')\n        except OSError:\n            pass\n"
        "    return same(X)\n"
    )
    verdict = task.verify(problem, {"code": code}, confined)
    assert verdict.valid, verdict.feedback
