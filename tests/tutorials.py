"""The tutorials and their blocks: those that tests run, and those marked as not run."""

import re
from pathlib import Path
from typing import NamedTuple

DOCS = Path(__file__).parents[1] / "docs"
TUTORIALS = (DOCS / "tutorial.md", DOCS / "own-task.md")
"""Pages whose blocks are typed as they stand, in their order, by tests/e2e/test_tutorial.py."""
RUN = ("shell", "python")
SHOWN = ("text", "toml")
NOT_RUN = 'shell title="not run by a test"'
_BLOCK = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A fenced block of a page."""

    kind: str
    """Text behind the opening fence."""
    text: str


def blocks(page: Path) -> list[Block]:
    """All blocks of a page."""
    return [Block(kind, text) for kind, text in _BLOCK.findall(page.read_text())]


def to_run(page: Path) -> list[Block]:
    """Return the blocks of a page that a test has to run."""
    return [block for block in blocks(page) if block.kind in RUN]
