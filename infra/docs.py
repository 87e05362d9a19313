"""Make the pages of the documentation's site: `python -m infra.docs`, then `mkdocs build`.

Pages are written for a code host: they lie beside the code they speak of and link to files by relative paths. Here
they are copied to where the site wants them, with links to match, so that one text serves both. A link to a file that
is no page takes the file along. The reference is generated: the command line by typer's own `utils docs`, configuration
and API by mkdocstrings, from one directive a class. Nothing of this is committed.

What builds the site finds plain Markdown under build/docs, and needs no plugin or hook of ours.
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
"""Where files that are linked to, and are no pages, go."""
PACKAGES = ("tasks/*", "sia_core/*", "bench")
"""Directories whose README.md is a page; it is named after the directory."""
CONFIGURATION = {
    "A run": (
        "What `sia run` records of itself; most fields have an option of their name ([command line](cli.md)).",
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
"""Title -> what to say of it, and the models that it shows."""

_FIELDS_ONLY = """
      heading_level: 3
      show_symbol_type_heading: false
      filters: ["!^_", "!^(model_config|parse|shares|refuse)$"]"""
"""mkdocstrings' options where the methods of a model are of no use to the reader."""
_FENCE = re.compile(r"^(```.*?^```)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<=\]\()([^)#\s]+)(?=[^)]*\))")


Places = Mapping[PurePosixPath, PurePosixPath]
"""Page of the repository -> page of the site."""


class LinkError(Exception):
    """A page links to a file that is not there."""


def main(target: Path = TARGET) -> int:
    """Write all pages anew, into an empty directory."""
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
    """All pages."""
    pages = {_below(root, page): PurePosixPath(page.name) for page in sorted(root.glob("docs/*.md"))}
    for readme in sorted(path for package in PACKAGES for path in root.glob(f"{package}/README.md")):
        source = _below(root, readme)
        pages[source] = source.parent.with_suffix(".md")
    top = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
    return pages | {PurePosixPath(source): PurePosixPath(top[source]) for source in top if (root / source).exists()}


def _below(root: Path, path: Path) -> PurePosixPath:
    return PurePosixPath(path.relative_to(root))


def relinked(root: Path, pages: Places) -> tuple[dict[PurePosixPath, str], set[PurePosixPath]]:
    """The text of each page by its place on the site, and the files that come with them.

    Raises:
        LinkError: a page links to what is not there.
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
            raise LinkError(f"{source} links to {found.group()}, which is no file")
        if target not in pages:
            taken.add(target)
        return relpath(pages.get(target, FILES / target), pages[source].parent)

    parts = _FENCE.split((root / source).read_text(encoding="utf-8"))
    return "".join(part if part.startswith("```") else _LINK.sub(follow, part) for part in parts), taken


def reference() -> dict[PurePosixPath, str]:
    """Pages that are made from the code."""
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
