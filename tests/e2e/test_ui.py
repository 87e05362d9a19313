"""`sia ui` starts both servers, finds them again, links to runs, and ends them."""

import json
import re
import sqlite3
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sia_core.host.home import private_file
from sia_core.host.password import basic, password
from tests.e2e.conftest import Finished, Sia, processes_of

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@contextmanager
def alone(sia: Sia, prefect_home: Path) -> Iterator[Sia]:
    """The command line without a Prefect of the test session, whose own servers end with the block."""
    _copy_database(prefect_home / "prefect" / "prefect.db", sia.home / "prefect" / "prefect.db")
    kept = {name: value for name, value in sia.environment.items() if not name.startswith("PREFECT_")}
    own = Sia(sia.home, kept)
    try:
        yield own
    finally:
        own("ui", "--stop")


@pytest.mark.slow
def test_prefect_and_mlflow_uis_start_are_found_again_and_end(finished: Finished, prefect_home: Path) -> None:
    sia = finished.sia
    with alone(sia, prefect_home) as own:
        first = own("ui")
        addresses = re.findall(r"^(?:Prefect|MLflow) +(http\S+)$", first, flags=re.MULTILINE)
        assert len(addresses) == 2
        for address in addresses:
            request = urllib.request.Request(address, headers=basic(password(sia.home)))
            with urllib.request.urlopen(request, timeout=30) as page:
                assert page.status == 200
                assert b"<html" in page.read().lower()
        run = sia.run()
        assert f"/#/experiments/{run.experiment_id}/runs/{run.run_id}" in first
        assert run.tags["sia.prefect_run"] in first
        assert own("ui") == first
        assert own("ui", "--stop").count("ended") == 2
        assert own("ui", "--stop").count("was not running") == 2
        assert not processes_of(sia.home)


@pytest.mark.slow
def test_page_that_is_printed_logs_a_browser_in(finished: Finished, prefect_home: Path, chromium: "Browser") -> None:
    sia = finished.sia
    with alone(sia, prefect_home) as own:
        (place,) = re.findall(r"open (file:\S+) in a browser", own("ui"))
        context = chromium.new_context()
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.goto(place)
        assert page.get_by_role("link").count() == 4
        for link, text in ((2, sia.run().name), (3, sia.run().name)):
            page.goto(place)
            page.get_by_role("link").nth(link).click()
            page.get_by_text(text).first.wait_for()
            assert "/sia/login" not in page.url and "code=" not in page.url
        context.close()
        code = json.loads((sia.home / "services" / "mlflow.json").read_text())["code"]
        own("ui", "--stop")
        own("ui")
        assert json.loads((sia.home / "services" / "mlflow.json").read_text())["code"] != code


def _copy_database(source: Path, target: Path) -> None:
    """Copy the database of the session's server, so that the new server needs no migrations."""
    target.parent.mkdir(mode=0o700, exist_ok=True)
    private_file(target)
    with sqlite3.connect(f"file:{source}?mode=ro", uri=True) as live, sqlite3.connect(target) as copy:
        live.backup(copy)
