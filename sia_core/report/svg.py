"""Draw SVG elements of a page, with attributes and texts escaped and colours left to the style sheet."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from sia_core.report.html import printable

Attribute = str | float | int


def element(name: str, *children: Markup, **attributes: Attribute) -> Markup:
    """Create an element; names of attributes have `_` for `-`, and `class_` for `class`. Numbers are rounded."""
    words = Markup("").join(
        Markup(' {}="{}"').format(Markup(key.rstrip("_").replace("_", "-")), _value(value))
        for key, value in attributes.items()
    )
    tag = Markup(name)
    return Markup("<{0}{1}>{2}</{0}>").format(tag, words, Markup("").join(children))


def text(content: object, x: float, y: float, **attributes: Attribute) -> Markup:
    """Create a line of text."""
    return element("text", escape(printable(str(content))), x=x, y=y, **attributes)


def picture(
    name: str, title: str, about: str, width: float, height: float, parts: Iterable[Markup], *, scrolls: bool = False
) -> Markup:
    """Create a whole picture, with title and description for screen readers.

    Args:
        name: id of the element, unique in the page.
        title: title of the picture.
        about: description of its contents.
        width: width in its own units, in which `parts` are drawn.
        height: height in the same units.
        parts: elements.
        scrolls: True if the picture keeps its size and scrolls when it does not fit, instead of shrinking.
    """
    drawing = element(
        "svg",
        element("title", escape(printable(title)), id=f"{name}-title"),
        element("desc", escape(printable(about)), id=f"{name}-about"),
        *parts,
        viewBox=f"0 0 {width:g} {height:g}",
        width=width,
        height=height,
        role="img",
        aria_labelledby=f"{name}-title {name}-about",
        class_="wide" if scrolls else "small",
    )
    if not scrolls:
        return drawing
    return element("div", drawing, class_="scroll", tabindex=0, role="group", aria_label=title)


@dataclass(frozen=True)
class Scale:
    """A map from values to places on an axis; `ticks` are round numbers."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Return the place of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, count: int = 5) -> list[float]:
        """Return about `count` round numbers within the scale."""
        step = _round_step((self.high - self.low) / count)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [at * step for at in range(first, last + 1)]


def scale_for(values: Sequence[float], start: float, end: float) -> Scale:
    """Choose a scale with room for all values and a little more, never of width 0."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    room = (high - low) * 0.06 or max(abs(high) * 0.1, 1e-6)
    return Scale(low - room, high + room, start, end)


def short_number(value: float) -> str:
    """Format a tick's label."""
    return f"{value:.4g}" if value else "0"


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9))


def _value(value: Attribute) -> str:
    return f"{value:.6g}" if isinstance(value, float) else printable(str(value))
