"""`sia ui` starts both servers, finds them again, links to runs, and ends them."""

import re
import sqlite3
import urllib.request
from pathlib import Path

import pytest

from tests.e2e.conftest import Finished, Sia, processes_of


@pytest.mark.slow
def test_prefect_and_mlflow_uis_start_are_found_again_and_end(finished: Finished, prefect_home: Path) -> None:
    sia = finished.sia
    _copy_database(prefect_home / "prefect" / "prefect.db", sia.home / "prefect" / "prefect.db")
    own = Sia(sia.home, {name: value for name, value in sia.environment.items() if name != "PREFECT_API_URL"})
    try:
        first = own("ui")
        for address in re.findall(r"^(?:Prefect|MLflow) +(http\S+)$", first, flags=re.MULTILINE):
            with urllib.request.urlopen(address, timeout=30) as page:
                assert page.status == 200
                assert b"<html" in page.read().lower()
        run = sia.run()
        assert f"/#/experiments/{run.experiment_id}/runs/{run.run_id}" in first
        assert run.tags["sia.prefect_run"] in first
        assert own("ui") == first
    finally:
        stopped = own("ui", "--stop")
    assert stopped.count("ended") == 2
    assert own("ui", "--stop").count("was not running") == 2
    assert not processes_of(sia.home)


def _copy_database(source: Path, target: Path) -> None:
    """Copy the database of the session's server, so that the new server needs no migrations."""
    target.parent.mkdir(exist_ok=True)
    with sqlite3.connect(f"file:{source}?mode=ro", uri=True) as live, sqlite3.connect(target) as copy:
        live.backup(copy)
