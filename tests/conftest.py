"""Fixtures for all tests."""

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from sia_core.engine.worker import SandboxLab

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# As in a shell's background job; what tests start would inherit it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give slow tests time: a busy machine must not look like a fault."""
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.timeout(1800), append=False)


@pytest.fixture(scope="session", autouse=True)
def images() -> None:
    """Copies of the interpreter in memory stay for the whole session, also those that commands of tests make."""
    from sia_core.domain.errors import SandboxError
    from sia_core.engine.sandbox.image import hold

    with suppress(SandboxError):
        hold()


@pytest.fixture(scope="session")
def bwrap() -> str:
    """Path of bubblewrap."""
    from sia_core.domain.errors import SandboxError
    from sia_core.engine.sandbox.bubblewrap import find_bubblewrap

    try:
        return find_bubblewrap()
    except SandboxError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def lab() -> "Iterator[SandboxLab]":
    """A lab in the strict sandbox."""
    from tests.labs import strict_lab

    with strict_lab() as made:
        yield made


@pytest.fixture(scope="module")
def chromium() -> "Iterator[Browser]":
    """The system's browser without a window, since Playwright's own would have to be downloaded."""
    from playwright.sync_api import sync_playwright

    names = ("chromium", "chromium-browser", "google-chrome")
    program = os.environ.get("SIA_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if program is None:
        pytest.skip("there is no Chromium: install it (Debian: apt-get install chromium), or set SIA_CHROMIUM")
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=program, args=["--no-sandbox"] if os.geteuid() == 0 else [])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of the tiny model."""
    from tests.models import make_tiny_model

    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's database before its first run: creating the tables takes seconds, and a copy takes none."""
    from sia_core.record.store import open_record

    home = tmp_path_factory.mktemp("mlflow")
    open_record(home, None)
    return home / "mlflow.db"


@pytest.fixture
def store_home(tmp_path: Path, empty_store: Path) -> Path:
    """A home with an empty MLflow store."""
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(empty_store, home)
    return home
