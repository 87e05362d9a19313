"""The report in a real browser: axe-core finds no fault, no file is fetched, and the page fits a phone's screen.

Needs a Chromium (SIA_CHROMIUM, or one on the path). SIA_AXE may name another axe.min.js than the installed package's.
"""

import importlib.resources
import os
from functools import partial
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Browser, Request

from sia_core.record.store import Record, RunRecord
from sia_core.report.compare import compare_page, compare_runs
from sia_core.report.page import report
from tests.report.made import make_run
from tests.report.test_hostile import HOSTILE

pytestmark = pytest.mark.slow
SCREENS = {"desktop": (1280, 900), "phone": (360, 780)}


@pytest.fixture(scope="module")
def axe() -> str:
    """The accessibility checker's own script."""
    bundled = importlib.resources.files("axe_playwright_python") / "axe.min.js"
    return Path(os.environ.get("SIA_AXE") or str(bundled)).read_text()


@pytest.fixture(scope="module")
def pages(store: Record, finished_run: RunRecord, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Reports and a comparison on disk."""
    folder = tmp_path_factory.mktemp("pages")
    other = make_run(store, final=(0.1, 0.5, 0.4))
    made = {
        "report.html": report(finished_run),
        "hostile.html": report(make_run(store, HOSTILE.replace("\ud800", ""))),
        "compare.html": compare_page(compare_runs([finished_run, other]), ""),
    }
    for name, text in made.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in made]


def _note(asked: list[str], request: Request) -> None:
    asked.append(request.url)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("screen", SCREENS)
def test_pages_pass_the_accessibility_checker(
    chromium: Browser, axe: str, pages: list[Path], scheme: Literal["light", "dark"], screen: str
) -> None:
    width, height = SCREENS[screen]
    for page in pages:
        # The checker is a script, and the page's policy allows none: it is put aside for the check alone.
        context = chromium.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, bypass_csp=True
        )
        tab = context.new_page()
        asked: list[str] = []
        tab.on("request", partial(_note, asked))
        tab.on("dialog", lambda dialog: pytest.fail(f"a script ran: {dialog.message}"))
        tab.goto(page.as_uri())
        assert asked == [page.as_uri()]
        tab.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        beyond = tab.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert beyond <= 0, f"{page.name} is {beyond} pixels wider than the screen"
        tab.evaluate(axe)
        found = tab.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
        assert not found, [(one["id"], one["nodes"][0]["html"]) for one in found]
        context.close()


def test_content_security_policy_is_in_force(chromium: Browser, pages: list[Path]) -> None:
    tab = chromium.new_page()
    tab.goto(pages[0].as_uri())
    refused: list[str] = []
    tab.on("console", lambda message: refused.append(message.text))
    # The browser's own tools may run a script; one that the page itself would hold may not.
    tab.evaluate(
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.ran = 1'}))"
    )
    assert tab.evaluate("window.ran") is None
    assert any("Content Security Policy" in text for text in refused), refused
    style = tab.evaluate("getComputedStyle(document.querySelector('main')).maxWidth")
    assert style != "none"  # The page's own style sheet is the one that is allowed.
    tab.close()
