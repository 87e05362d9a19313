"""Fixtures for all tests."""

import os
import shutil
import signal
from pathlib import Path

import pytest

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # As in a shell's background job; what tests start would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def bwrap() -> str:
    """Path of bubblewrap."""
    from sia_core.engine.sandbox.bubblewrap import find_bubblewrap
    from sia_core.errors import SandboxError

    try:
        return find_bubblewrap()
    except SandboxError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of the tiny model."""
    from tests.models import make_tiny_model

    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's database before its first run: making the tables takes seconds, copying them none."""
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
