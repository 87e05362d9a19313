"""The task at its CI size, and a strict lab for the whole package."""

from collections.abc import Iterator

import pytest

from sia_core.domain.task import Problem, Task
from sia_core.engine.worker import SandboxLab
from tasks.trimul.settings import DEVICE, PLAN
from tests.labs import strict_lab


@pytest.fixture(scope="package", autouse=True)
def _small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIA_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv(PLAN, "ci")
        patch.delenv(DEVICE, raising=False)
        yield


@pytest.fixture(scope="package")
def task() -> Task:
    """The task as the project loads it."""
    return Task.load("trimul")


@pytest.fixture(scope="package")
def problem(task: Task) -> Problem:
    """A training problem, N = 32."""
    return task.problems("train")[0]


@pytest.fixture(scope="package")
def lab() -> Iterator[SandboxLab]:
    """The strict sandbox as a lab."""
    pytest.importorskip("torch")
    with strict_lab() as made:
        yield made
