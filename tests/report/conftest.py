"""A store and runs in it, made once."""

import shutil
from pathlib import Path

import pytest

from sia_core.record.store import Record, RunRecord, open_record
from tests.report.made import make_run


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Record:
    """An MLflow store of this package's tests."""
    home = tmp_path_factory.mktemp("report")
    shutil.copy(empty_store, home)
    return open_record(home, None)


@pytest.fixture(scope="session")
def finished_run(store: Record) -> RunRecord:
    """A finished run that tests read and do not change."""
    return make_run(store)
