"""What tests of flows share."""

from pathlib import Path

import pytest

from sia_core.record.store import open_record


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's database before its first run: making the tables takes seconds, copying them none."""
    home = tmp_path_factory.mktemp("mlflow")
    open_record(home, None)
    return home / "mlflow.db"
