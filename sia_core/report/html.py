"""Render HTML pages: one file without scripts or external resources, with all text escaped.

Three barriers stand between a page and the texts of models, harnesses and tasks:

- The templates escape every value (autoescape), and an unknown name is an error.
- Every string that a template prints first has its unprintable characters spelled out (`agents.quote.spell`): terminal
  codes, bidirectional overrides, zero-width characters, NUL.
- The page's Content-Security-Policy allows one style sheet, by its digest, and nothing else.

Only the templates and `report.svg` make markup.
"""

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from sia_core.agents.quote import spell

_NONCHARACTERS = re.compile(
    "[\ufdd0-\ufdef" + "".join(f"{chr(0x10000 * at + 0xFFFE)}-{chr(0x10000 * at + 0xFFFF)}" for at in range(17)) + "]"
)


def render(template: str, **values: Any) -> str:
    """Render a whole page from `templates/TEMPLATE.html.j2`."""
    return environment().get_template(f"{template}.html.j2").render(values)


@cache
def environment() -> Environment:
    """Create the Jinja environment of the templates, once for the process."""
    made = Environment(
        loader=PackageLoader("sia_core.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_inert,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = (files("sia_core.report") / "templates" / "style.css").read_text()
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    # The style sheet is this package's own text. The digest covers the exact characters between the tags.
    made.globals["style"] = Markup(style)
    made.globals["policy"] = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    return made


def _inert(value: Any) -> Any:
    """Spell out a value's unprintable characters before the template escapes it; Markup stays as it is."""
    if isinstance(value, Markup):
        return value
    if value is None:
        raise TypeError("a template prints None")
    return printable(str(value))


def printable(text: str) -> str:
    """Spell out every character of a text that a page cannot or should not hold."""
    return _NONCHARACTERS.sub(lambda found: f"\\u{{{ord(found[0]):x}}}", spell(text))
