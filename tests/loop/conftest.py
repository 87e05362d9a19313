"""Fixtures that tests of flows share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from sia_core.loop.session import Session
from sia_core.record.store import open_record
from tests.loop.in_process import open_session


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's database before its first run: creating the tables takes seconds, and a copy takes none."""
    home = tmp_path_factory.mktemp("mlflow")
    open_record(home, None)
    return home / "mlflow.db"


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[Session]:
    """A session whose first generation was executed, made once for each module of tests."""
    with open_session(tmp_path_factory.mktemp("home"), empty_store) as made:
        yield made
