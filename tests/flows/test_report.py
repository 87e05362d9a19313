"""The report at the end of a run is kept and linked, and never makes a run fail."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows import links as flow_links
from flows import run as run_flow
from sia_core.record.store import RunRecord, open_record
from sia_core.report.page import FILE
from tests.report.made import make_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> RunRecord:
    """A finished run that has no report yet."""
    home = tmp_path_factory.mktemp("reported")
    shutil.copy(empty_store, home)
    return make_run(open_record(home, None))


@pytest.fixture
def links(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Links that Prefect is asked to show, while MLflow's server is up."""
    shown: list[dict[str, Any]] = []

    def show(link: str, text: str, key: str, about: str) -> None:
        shown.append({"link": link, "text": text, "key": key, "about": about})

    monkeypatch.setattr(flow_links, "create_link_artifact", show)
    monkeypatch.setattr(flow_links, "mlflow_address", lambda: "http://127.0.0.1:5000")
    return shown


@pytest.fixture
def said(run: RunRecord, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Messages that a session of the run reports."""
    lines: list[str] = []

    @contextmanager
    def opened(_name: str) -> Iterator[Any]:
        yield SimpleNamespace(run=run, reporter=SimpleNamespace(say=lines.append))

    monkeypatch.setattr(run_flow, "open_session", opened)
    return lines


def test_report_page_is_kept_and_linked(run: RunRecord, links: list[dict[str, Any]], said: list[str]) -> None:
    assert run.get_bytes(FILE) is None
    run_flow.write_report.fn(run.name)
    assert run.name in (run.get_bytes(FILE) or b"").decode()
    (link,) = links
    assert link["link"].endswith(f"{run.run_id}/artifacts/{FILE}") and link["key"] == f"{run.name}-report"
    assert said == []


@pytest.mark.parametrize("broken", ["report", "link_to_mlflow"])
def test_report_that_cannot_be_made_or_shown_is_logged_in_one_line(
    run: RunRecord, links: list[dict[str, Any]], said: list[str], monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("no space")

    monkeypatch.setattr(run_flow, broken, fail)
    run_flow.write_report.fn(run.name)
    assert said == [f"no report was stored (OSError: no space); write one: sia report {run.name}"]


def test_report_asked_for_by_name_raises_its_error(run: RunRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: RunRecord) -> str:
        raise OSError("no space")

    monkeypatch.setattr(run_flow, "report", fail)
    with pytest.raises(OSError, match="no space"):
        run_flow.keep_report(run)
