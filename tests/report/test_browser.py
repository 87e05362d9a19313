"""The report in a real browser: axe-core finds nothing, nothing is fetched, nothing runs off a phone's screen.

Needs what the project does not install: the Python package playwright, a Chromium (SIA_CHROMIUM, or one on the path)
and axe-core's axe.min.js (SIA_AXE; `npm pack axe-core` brings it).
"""

import importlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sia_core.record.store import Record, RunRecord
from sia_core.report.compare import compare_runs
from sia_core.report.compare_page import compare_page
from sia_core.report.page import report
from tests.report.made import make_run
from tests.report.test_hostile import HOSTILE

pytestmark = pytest.mark.slow
SCREENS = {"desktop": (1280, 900), "phone": (360, 780)}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A browser without a window."""
    try:
        library: Any = importlib.import_module("playwright.sync_api")
    except ImportError:
        pytest.skip("playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome")
    program = os.environ.get("SIA_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if program is None:
        pytest.skip("there is no Chromium: set SIA_CHROMIUM")
    with library.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=program, args=["--no-sandbox"] if os.geteuid() == 0 else [])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def axe() -> str:
    """The accessibility checker's own script."""
    path = os.environ.get("SIA_AXE", "")
    if not Path(path).is_file():
        pytest.skip("set SIA_AXE to axe.min.js (npm pack axe-core)")
    return Path(path).read_text()


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


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("screen", SCREENS)
def test_nothing_is_wrong_with_it(chromium: Any, axe: str, pages: list[Path], scheme: str, screen: str) -> None:
    width, height = SCREENS[screen]
    for page in pages:
        # The checker is a script, and the page's policy allows none: it is put aside for the check alone.
        context = chromium.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, bypass_csp=True
        )
        tab = context.new_page()
        asked: list[str] = []
        tab.on("request", lambda request, asked=asked: asked.append(request.url))
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


def test_the_policy_is_in_force(chromium: Any, pages: list[Path]) -> None:
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
