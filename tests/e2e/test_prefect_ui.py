"""The Prefect UI in a real browser: start from the form, Retry after a crash, read the artifacts."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.e2e.conftest import AUTH, TOY, Api, Finished, Sia
from tests.e2e.test_deployments import kill_child, wait_for_state, working
from tests.e2e.test_resume import outcome, rollouts_done, wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

PATIENCE_MS = 60_000
"""Wait limit of a page, which loads in seconds while the machine plays a run."""


@pytest.mark.slow
def test_prefect_ui_starts_retries_and_shows_a_run(
    sia: Sia, api: Api, chromium: "Browser", prefect_api: str, finished: Finished, tmp_path: Path
) -> None:
    expected, total = outcome(finished.sia), rollouts_done(finished.sia)
    sia("deploy", str(TOY))
    deployment = api("/deployments/name/evolve/toy")["id"]
    asking = {"deployments": {"id": {"any_": [deployment]}}}
    before = {run["id"] for run in api("/flow_runs/filter", asking)}  # Of other tests.

    def begun() -> list[str]:
        return [run["id"] for run in api("/flow_runs/filter", asking) if run["id"] not in before]

    page = chromium.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(PATIENCE_MS)
    ui, asked = prefect_api.removesuffix("/api"), list[str]()
    page.on("request", lambda request: asked.append(request.url))

    log_in(page, ui, f"/deployments/deployment/{deployment}/run")
    page.get_by_text("Name of a task that ships with SIA").wait_for()
    assert _field(page, "Task").input_value() == str(TOY)
    _field(page, "Seed (Optional)").fill("1")
    _field(page, "Policy (Optional)").fill("gpt")
    page.get_by_role("button", name="Submit").click()
    page.get_by_text("Validation failed for field 'settings.policy'").first.wait_for()
    assert not begun()

    _field(page, "Policy (Optional)").fill("scripted")
    page.get_by_role("button", name="Submit").click()
    wait_until(lambda: bool(begun()), seconds=60)
    (flow_run,) = begun()
    with working(sia, tmp_path / "worker.log"):
        wait_until(lambda: rollouts_done(sia) >= 20)
        kill_child(api, flow_run)
        wait_for_state(api, flow_run, "CRASHED")
        page.goto(f"{ui}/runs/flow-run/{flow_run}")
        page.get_by_text("Crashed", exact=True).first.wait_for()
        page.get_by_role("button", name="Retry").click()
        page.get_by_role("dialog").get_by_role("button", name="Retry").click()
        wait_for_state(api, flow_run, "COMPLETED", "FAILED")

    page.reload()
    page.get_by_text("Completed", exact=True).first.wait_for()
    page.get_by_text("Artifacts", exact=True).click()
    page.get_by_text(f"{sia.run().name}-lineage").first.click()
    page.get_by_text("menu=rich").first.wait_for()
    assert outcome(sia) == expected and rollouts_done(sia) == total
    # Nothing is asked of another server, even where another one has Prefect's usual port.
    assert all(url.startswith((ui, "data:", "blob:")) for url in asked), asked


def log_in(page: "Page", ui: str, path: str) -> None:
    """Log in with the password, and go on to a page."""
    page.goto(f"{ui}/sia/login#to={path}")
    page.get_by_label("Password").fill(os.environ[AUTH])
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url(f"{ui}{path}")


def _field(page: "Page", label: str) -> "Locator":
    """The box under a label, which Prefect's pages do not tie to it."""
    return page.locator(f"xpath=//*[normalize-space(text())='{label}']/following::*[self::textarea or self::input][1]")
