"""Make the pages of the documentation site: `python -m infra.docs`, then `mkdocs build`.

Pages are written for a code host: they lie beside their code and link to files by relative paths. This script copies
them to their places on the site and adapts the links. A linked file that is not a page is copied too. The reference is
generated: the command line by typer's `utils docs`, configuration and API by mkdocstrings, from one directive a class.
Nothing of this is committed. The site is built from plain Markdown under build/docs, without our own plugins or hooks.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from os.path import relpath
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "build" / "docs"
FILES = PurePosixPath("files")
"""Place of linked files that are not pages."""
PACKAGES = ("tasks/*", "sia_core/*", "bench")
"""Directories whose README.md is a page, named after the directory."""
CONFIGURATION = {
    "A run": (
        "Configuration that `sia run` records; most fields have an option of the same name ([command line](cli.md)).",
        ("sia_core.domain.config.RunConfig", "sia_core.domain.budget.Budget"),
    ),
    "task.toml": (
        "The tables of a task ([how to write one](../tasks.md)).",
        tuple(
            f"sia_core.domain.task_config.{name}"
            for name in (
                *("TaskConfig", "Plan", "UpdateDefaults", "RolloutLimits", "Resources", "SamplingDefaults"),
                *("RewriteLimits", "CheckLimits"),
            )
        ),
    ),
    "harness.toml": (
        "The manifest of a harness.",
        tuple(f"sia_core.domain.harness.{name}" for name in ("HarnessConfig", "HarnessBudget", "Knob")),
    ),
}
"""Introduction and models of each section, by title."""

_FIELDS_ONLY = """
      heading_level: 3
      show_symbol_type_heading: false
      filters: ["!^_", "!^(model_config|parse|shares|refuse)$"]"""
"""Options of mkdocstrings that hide the methods of a model."""
_FENCE = re.compile(r"^(```.*?^```)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<=\]\()([^)#\s]+)(?=[^)]*\))")


Places = Mapping[PurePosixPath, PurePosixPath]
"""Pages of the site by page of the repository."""


class LinkError(Exception):
    """A page links to a missing file."""


def main(target: Path = TARGET) -> int:
    """Write all pages into an empty directory."""
    shutil.rmtree(target, ignore_errors=True)
    texts, taken = relinked(ROOT, places(ROOT))
    for place, text in {**texts, **reference()}.items():
        path = target / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    for source in taken:
        path = target / FILES / source
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / source, path)
    return 0


def places(root: Path) -> Places:
    """List all pages."""
    pages = {_below(root, page): PurePosixPath(page.name) for page in sorted(root.glob("docs/*.md"))}
    for readme in sorted(path for package in PACKAGES for path in root.glob(f"{package}/README.md")):
        source = _below(root, readme)
        pages[source] = source.parent.with_suffix(".md")
    top = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
    return pages | {PurePosixPath(source): PurePosixPath(top[source]) for source in top if (root / source).exists()}


def _below(root: Path, path: Path) -> PurePosixPath:
    return PurePosixPath(path.relative_to(root))


def relinked(root: Path, pages: Places) -> tuple[dict[PurePosixPath, str], set[PurePosixPath]]:
    """Return the text of each page by its place on the site, and the linked files.

    Raises:
        LinkError: a page links to a missing file.
    """
    texts: dict[PurePosixPath, str] = {}
    taken: set[PurePosixPath] = set()
    for source, place in pages.items():
        texts[place], files = _relinked(root, pages, source)
        taken |= files
    return texts, taken


def _relinked(root: Path, pages: Places, source: PurePosixPath) -> tuple[str, set[PurePosixPath]]:
    taken: set[PurePosixPath] = set()

    def follow(found: re.Match[str]) -> str:
        if "://" in found.group() or found.group().startswith("mailto:"):
            return found.group()
        target = PurePosixPath(relpath((root / source.parent / found.group()).resolve(), root.resolve()))
        if not (root / target).is_file():
            raise LinkError(f"{source} links to {found.group()}, which is not a file")
        if target not in pages:
            taken.add(target)
        return relpath(pages.get(target, FILES / target), pages[source].parent)

    parts = _FENCE.split((root / source).read_text(encoding="utf-8"))
    return "".join(part if part.startswith("```") else _LINK.sub(follow, part) for part in parts), taken


def reference() -> dict[PurePosixPath, str]:
    """Make the pages that come from the code."""
    made = {"cli": _command_line(), "config": "".join(_configuration()), "api": "# API\n\n::: sia_core\n"}
    return {PurePosixPath("reference", f"{name}.md"): text for name, text in made.items()}


def _command_line() -> str:
    words = ("-m", "typer", "sia_core.cli.main", "utils", "docs", "--name", "sia", "--title", "Commands")
    return subprocess.run([sys.executable, *words], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


def _configuration() -> Iterator[str]:
    yield "# Configuration\n"
    for title, (about, models) in CONFIGURATION.items():
        yield f"\n## {title}\n\n{about}\n"
        for model in models:
            yield f"\n::: {model}\n    options:{_FIELDS_ONLY}\n"


if __name__ == "__main__":
    sys.exit(main())
