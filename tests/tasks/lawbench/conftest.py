"""The task on a small corpus of its own, so that nothing is fetched."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from sia_core.domain.errors import SandboxError
from sia_core.domain.task import Problem, Task
from sia_core.engine.sandbox.bubblewrap import find_bubblewrap
from sia_core.engine.worker import RolloutRunner
from tasks.lawbench import data, library, lines, settings, splits
from tests.tasks.lawbench import corpus


def forget() -> None:
    """Drop everything read from files."""
    data.forget()
    for cached in (splits.splits, library._folder, lines.lines):
        cached.cache_clear()


@pytest.fixture(scope="package", autouse=True)
def _prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A store that holds the corpus, with pins as the real corpus has."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIA_HOME", str(home))
        patch.delenv(settings.TRACK, raising=False)
        for name, value in corpus.write(data.store()).items():
            patch.setitem(settings.data_settings(), name, value)
        forget()
        yield home
    forget()


@pytest.fixture(scope="package")
def task() -> Task:
    """The task as the project loads it."""
    return Task.load("lawbench")


@pytest.fixture
def problem(task: Task) -> Problem:
    """A training problem."""
    return task.problems("train")[0]


@pytest.fixture(scope="package")
def runner(task: Task) -> Iterator[RolloutRunner]:
    """A runner that plays in the strict sandbox."""
    try:
        find_bubblewrap()
    except SandboxError as error:
        pytest.skip(str(error))
    runner = RolloutRunner(task, "strict")
    yield runner
    runner.close()
