"""Password of the servers behind the UIs, as `USER:PASSWORD`, in a file that only you can read."""

import base64
from pathlib import Path
from typing import Final

from sia_core.host.secret import secret

USER: Final = "sia"


def password_file(home: Path) -> Path:
    """Return the file of the password."""
    return home / "services" / "password"


def password(home: Path) -> str:
    """Return user and password, joined by a colon: Prefect's auth string and MLflow's login."""
    return secret(password_file(home), f"{USER}:")


def basic(text: str) -> dict[str, str]:
    """Return the header that logs in with `USER:PASSWORD`."""
    return {"Authorization": f"Basic {base64.b64encode(text.encode()).decode()}"}
