"""Text that a model, a harness or a task may have written, on its way to a terminal."""

from rich.markup import escape

from sia_core.agents.quote import elide, one_line, spell

_LINE, _TEXT = 2000, 20_000
"""Characters of a line, and of a text of several lines."""


def plain(text: str) -> str:
    """One line in which neither rich's markup nor control or bidirectional codes have an effect."""
    return escape(one_line(elide(text, _LINE), 2 * _LINE))


def plain_lines(text: str) -> str:
    """Return a text of several lines without effective control codes, for where rich's markup is not read."""
    return spell(elide(text, _TEXT))
