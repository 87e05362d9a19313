"""Give a local Ray its token where the home directory cannot be written.

Ray demands a token between its own processes and writes a new one to `~/.ray/auth_token`. With a home directory that is
read-only, the token goes into Ray's private directory instead.
"""

import os
import secrets
from collections.abc import MutableMapping
from pathlib import Path

from sia_core.domain.errors import ServiceError

_VARIABLES = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
_NAME = "auth_token"


def provide_token(private: Path, environment: MutableMapping[str, str] = os.environ) -> None:
    """Write a token and name its file in the environment, if Ray could not write one. Idempotent.

    Args:
        private: directory that only this user can read.
        environment: variables that Ray and its processes read.

    Raises:
        ServiceError: the file cannot be written.
    """
    if any(environment.get(name) for name in _VARIABLES) or _ray_can(environment):
        return
    file = private / _NAME
    try:
        if not file.exists():
            with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
                out.write(secrets.token_hex(32))
    except FileExistsError:
        pass  # Another run was quicker; both may use the token.
    except OSError as error:
        hint = "export RAY_TMPDIR=/a/short/directory that you can write"
        raise ServiceError(f"Ray's token cannot be written: {error.strerror}", where=str(file), hint=hint) from error
    environment["RAY_AUTH_TOKEN_PATH"] = str(file)


def _ray_can(environment: MutableMapping[str, str]) -> bool:
    """Return True if Ray finds a token in the home directory or can write one there."""
    try:
        folder = Path(environment.get("HOME") or Path.home()) / ".ray"
    except RuntimeError:  # This user has no home directory.
        return False
    if (folder / _NAME).is_file():
        return os.access(folder / _NAME, os.R_OK)
    nearest = next((one for one in (folder, *folder.parents) if one.exists()), folder)
    return nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)
