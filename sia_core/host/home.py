"""Where SIA keeps what outlives a run: `$SIA_HOME`, else `~/.sia`.

The store (MLflow's SQLite file, caches, fetched models) lies under it. Only the path is decided here.
"""

import os
from pathlib import Path

from sia_core.domain.errors import RecordError


def home() -> Path:
    """The directory itself, created on first use, absolute.

    Raises:
        RecordError: it cannot be created or written.
    """
    asked = os.environ.get("SIA_HOME", "").strip()
    hint = "set SIA_HOME to a directory that you can write, e.g. export SIA_HOME=$PWD/.sia"
    try:
        path = (Path(asked) if asked else Path.home() / ".sia").expanduser().absolute()
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:
        # RuntimeError: no home directory can be determined for this user.
        raise RecordError(f"cannot create SIA's directory ({error})", where=asked or "~/.sia", hint=hint) from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise RecordError("SIA's directory is not writable", where=str(path), hint=hint)
    return path
