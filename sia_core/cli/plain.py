"""Make text of models, harnesses and tasks safe to print in a terminal."""

from rich.markup import escape

from sia_core.agents.quote import elide, one_line, spell

_LINE, _TEXT = 2000, 20_000
"""Characters of a line, and of a text of several lines."""


def plain(text: str) -> str:
    """Return one line in which neither rich's markup nor control or bidirectional codes have an effect."""
    return escape(one_line(elide(text, _LINE), 2 * _LINE))


def plain_lines(text: str) -> str:
    """Return several lines without effective control codes, to print without rich."""
    return spell(elide(text, _TEXT))
