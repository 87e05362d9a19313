"""Locate SIA's directory: `$SIA_HOME`, else `~/.sia`.

Everything that outlives a run is kept in it: MLflow's SQLite file, caches, fetched models.
"""

import os
from pathlib import Path

from sia_core.domain.errors import RecordError


def home() -> Path:
    """Return the absolute path of the directory, which is created on first use.

    Raises:
        RecordError: the directory cannot be created or written.
    """
    asked = os.environ.get("SIA_HOME", "").strip()
    hint = "set SIA_HOME to a directory that you can write, such as export SIA_HOME=$PWD/.sia"
    try:
        path = (Path(asked) if asked else Path.home() / ".sia").expanduser().absolute()
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:
        # RuntimeError: no home directory can be determined for this user.
        raise RecordError(f"cannot create SIA's directory ({error})", where=asked or "~/.sia", hint=hint) from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise RecordError("SIA's directory is not writable", where=str(path), hint=hint)
    return path
