"""Give a local Ray its token: its processes let nobody in without it.

Ray would write one to `~/.ray/auth_token`, which others can read, and which needs a home directory that can be written.
So the token is a secret beside Ray's own directory instead.
"""

import os
from collections.abc import MutableMapping
from pathlib import Path

from sia_core.host.secret import secret

_PATH, _NAME = "RAY_AUTH_TOKEN_PATH", "auth_token"


def provide_token(private: Path, environment: MutableMapping[str, str] = os.environ) -> None:
    """Make a token and name its file in the environment, unless you have named one. Idempotent.

    Args:
        private: directory that only this user can read.
        environment: variables that Ray and its processes read.

    Raises:
        RecordError: the file cannot be written, or others can read it.
    """
    if environment.get(_PATH, "").endswith(f"/{private.name}/{_NAME}"):
        del environment[_PATH]  # Of an earlier cluster; a cleaner of temporary files may have removed it.
    if not any(environment.get(name) for name in ("RAY_AUTH_TOKEN", _PATH)):
        secret(private / _NAME)
        environment[_PATH] = str(private / _NAME)
