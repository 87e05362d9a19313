"""Write the page whose links log your browser in to the servers behind the UIs.

The links hold a code that a server accepts until it ends. The page is a file that only you can read, so that no code is
printed and no other user of the machine sees one in the list of processes.
"""

import os
import sys
import webbrowser
from collections.abc import Sequence
from html import escape
from pathlib import Path
from urllib.parse import urlencode

from sia_core.host.home import private_file
from sia_core.host.servers import Running

LOGIN = "/sia/login"
"""Path of a server where a browser logs in."""


def login_page(home: Path, running: Sequence[Running], links: Sequence[tuple[str, str, str]]) -> Path:
    """Write the page and return its path.

    Args:
        home: SIA_HOME.
        running: servers of this home.
        links: name of a run or an empty text, name of a server, address; entries without an address are left out.
    """
    rows = [
        f'<li>{escape(f"{name}: " if name else "")}<a href="{escape(_logging_in(url, running))}">{server}</a></li>'
        for name, server, url in links
        if url
    ]
    page = private_file(home / "ui.html")
    page.write_text(
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>SIA</title><h1>SIA</h1>'
        "<p>Each link logs this browser in. The links work until the servers end.</p>"
        f"<ul>{''.join(rows)}</ul></html>\n",
        encoding="utf-8",
    )
    return page


def open_browser(page: Path) -> None:
    """Open the page if a person sits at this machine's screen."""
    if sys.stdout.isatty() and (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        webbrowser.open(page.as_uri())


def _logging_in(url: str, running: Sequence[Running]) -> str:
    """Return an address that logs in and leads to `url`, if a server of this home is there."""
    for server in running:
        if url == server.url or url.startswith(f"{server.url}/"):
            where = {"code": server.code, "to": url.removeprefix(server.url) or "/"}
            return f"{server.url}{LOGIN}#{urlencode(where)}"
    return url
