"""The documentation's site has valid links in both places, a strict build, a full reference and no network access."""

import importlib.util
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath

import pytest
import typer
from typer.core import TyperGroup

import sia_core
from infra.docs import LinkError, main, places, relinked
from sia_core.cli.main import app
from sia_core.domain.config import RunConfig

ROOT = Path(__file__).parents[2]
LOADS = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src", "object": "data"}
"""Tag -> attribute whose address a browser fetches by itself."""


class Page(HTMLParser):
    """Text, headings' ids and fetched addresses of a built page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.fetched: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.ids.add(values.get("id") or "")
        if values.get("rel") not in ("next", "prev", "canonical"):
            self.fetched += filter(None, [values.get(LOADS.get(tag, ""))])


def checkout(root: Path, **pages: str) -> Path:
    """A repository with these pages; `__` in a name stands for a slash."""
    for name, text in pages.items():
        path = root / f"{name.replace('__', '/')}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_links_hold_where_the_site_puts_the_pages(tmp_path: Path) -> None:
    root = checkout(
        tmp_path,
        README="[a](docs/a.md#part) [tax](tasks/tax/README.md)",
        docs__a="[tax](../tasks/tax/README.md) [home](../README.md) [web](https://example.org/x.md) [here](#part)",
        tasks__tax__README="[a](../../docs/a.md) [settings](task.toml)\n```\n[not a link](nowhere.md)\n```\n",
    )
    (root / "tasks" / "tax" / "task.toml").write_text("")
    texts, taken = relinked(root, places(root))
    assert {str(place): text for place, text in texts.items()} == {
        "index.md": "[a](a.md#part) [tax](tasks/tax.md)",
        "a.md": "[tax](tasks/tax.md) [home](index.md) [web](https://example.org/x.md) [here](#part)",
        "tasks/tax.md": "[a](../a.md) [settings](../files/tasks/tax/task.toml)\n```\n[not a link](nowhere.md)\n```\n",
    }
    assert taken == {PurePosixPath("tasks/tax/task.toml")}


def test_dead_link_is_named(tmp_path: Path) -> None:
    root = checkout(tmp_path, docs__a="[b](b.md)")
    with pytest.raises(LinkError, match=r"docs/a\.md links to b\.md"):
        relinked(root, places(root))


def test_site_builds_strictly_and_fetches_nothing(tmp_path: Path) -> None:
    if importlib.util.find_spec("mkdocs") is None:
        pytest.skip("the extra `docs` is not installed")
    assert main(tmp_path / "docs") == 0
    config = tmp_path / "mkdocs.yml"
    config.write_text(f"INHERIT: {ROOT / 'mkdocs.yml'}\ndocs_dir: docs\nsite_dir: site\n")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--config-file", str(config)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

    site = tmp_path / "site"
    built = {str(path.relative_to(site)): Page(path.read_text()) for path in site.rglob("*.html")}
    assert {"index.html", "tutorial.html", "sia_core/weights.html", "tasks/denoising.html"} <= set(built)
    assert {address for page in built.values() for address in page.fetched if "//" in address} == set()
    styles = "".join(path.read_text() for path in site.rglob("*.css"))
    assert not re.search(r"@import|url\(['\"]?(?:https?:)?//", styles)
    _check_reference(built)


def _check_reference(built: dict[str, Page]) -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    verbs = {f"sia-{name}" for name in group.commands} | {"sia-data-fetch", "sia-task-import"}
    assert verbs <= built["reference/cli.html"].ids
    fields = {f"sia_core.domain.config.RunConfig.{name}" for name in RunConfig.model_fields}
    assert fields <= built["reference/config.html"].ids
    names = {identity.rpartition(".")[2] for identity in built["reference/api.html"].ids}
    assert set(sia_core.__all__) <= names


def test_page_that_fetches_external_files_is_found() -> None:
    page = Page('<a href="https://a.org"><script src="https://b.org/x.js"></script><link rel="next" href="n.html">')
    assert page.fetched == ["https://b.org/x.js"]
