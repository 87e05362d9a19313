"""Counts for the denoising tests: the real counts if present beside the project or in scanpy, else imitations."""

import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sia_core.domain.errors import FetchError
from sia_core.domain.task import Problem, Task
from tasks.denoising import data, problems, scoring
from tasks.denoising.settings import data_settings
from tasks.denoising.task import MODE
from tests.tasks.denoising.labs import InProcessLab

SHARED = Path(__file__).parents[4] / "shared" / "data" / "scrna" / "celltypist_sample559.npz"


def real_counts() -> data.IntCounts | None:
    """All genes of the celltypist sample, or None where the file is absent."""
    if not SHARED.exists() or not zipfile.is_zipfile(SHARED):
        return None
    with np.load(SHARED, allow_pickle=False) as parts:
        counts = np.zeros(tuple(parts["shape"]), dtype=np.int32)
        rows = np.repeat(np.arange(len(counts)), np.diff(parts["indptr"]))
        counts[rows, parts["indices"]] = parts["data"]
    return counts


def synthetic_counts(cells: int = 559, genes: int = 2000) -> data.IntCounts:
    """Four kinds of cells with uneven depths and a few heavy genes."""
    random = np.random.RandomState(7)
    profiles = random.gamma(0.3, size=genes) * random.gamma(1.0, size=(4, genes))
    profiles /= profiles.sum(axis=1, keepdims=True)
    depth = random.lognormal(8.0, 0.6, size=(cells, 1))
    return random.poisson(profiles[random.randint(4, size=cells)] * depth).astype(np.int32)


def reduced_counts() -> data.IntCounts | None:
    """scanpy's pbmc68k_reduced, or None where scanpy is not installed."""
    try:
        return data._from_scanpy()
    except (FetchError, ImportError):
        return None


@pytest.fixture(scope="package", autouse=True)
def _prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A store of its own that already holds the counts, so that nothing is fetched."""
    whole, reduced = real_counts(), reduced_counts()
    first = synthetic_counts() if whole is None else data.top_genes(whole, int(data_settings()["genes"]))
    second = synthetic_counts(700, 765) if reduced is None else reduced
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIA_HOME", str(tmp_path_factory.mktemp("home")))
        for name in (data.CHOICE, MODE):
            patch.delenv(name, raising=False)
        data.store().mkdir(parents=True)
        for name, counts, real in (("celltypist", first, whole), ("pbmc68k", second, reduced)):
            if real is None:
                patch.setitem(data_settings(), f"{name}_counts_sha256", data.digest_counts(counts))
            np.savez_compressed(data.store() / f"{name}.npz", counts=counts)
        yield
    for cached in (data.load_counts, problems.pool, problems.matrices, scoring.bar):
        cached.cache_clear()


@pytest.fixture(scope="package", autouse=True)
def _one_thread() -> Iterator[None]:
    """Use a single thread, as rollout workers do: on matrices this small, more threads are slower."""
    threads = pytest.importorskip("threadpoolctl")
    with threads.threadpool_limits(1):
        yield


@pytest.fixture(scope="package")
def task() -> Task:
    """The task as the project loads it."""
    return Task.load("denoising")


@pytest.fixture(scope="package")
def problem(task: Task) -> Problem:
    """A training problem."""
    return task.problems("train")[0]


@pytest.fixture
def lab() -> InProcessLab:
    """Runs the tests' own programs."""
    return InProcessLab()
