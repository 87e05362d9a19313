"""Pages of HTML: one file, no script, nothing from elsewhere, and no text that is not escaped.

Three walls stand between a page and what models, harnesses and tasks wrote:

- the templates escape every value (autoescape), and a name they do not know is an error;
- every string that a template prints first has each character that does not print spelled out (`agents.quote.spell`):
  terminal codes, bidirectional overrides, zero-width characters, NUL;
- the page's Content-Security-Policy allows one style sheet, by its digest, and nothing else.

Markup is made by the templates and by `report.svg` only.
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
    """A whole page from `templates/TEMPLATE.html.j2`."""
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
    # The style sheet is this package's own text. Its digest is of the exact characters between the tags.
    made.globals["style"] = Markup(style)
    made.globals["policy"] = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    return made


def _inert(value: Any) -> Any:
    """Make a value that a template prints printable, before the value is escaped; Markup stays as it is."""
    if isinstance(value, Markup):
        return value
    if value is None:
        raise TypeError("a template prints None")
    return printable(str(value))


def printable(text: str) -> str:
    """The text with every character that a page cannot or should not hold spelled out."""
    return _NONCHARACTERS.sub(lambda found: f"\\u{{{ord(found[0]):x}}}", spell(text))
