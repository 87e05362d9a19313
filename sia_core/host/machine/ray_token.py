"""Give a local Ray its token: its processes let nobody in without it.

Ray would write one to `~/.ray/auth_token`, which others can read, and which needs a home directory that can be written.
So the token is a secret beside Ray's own directory instead.
"""

import os
from collections.abc import MutableMapping
from pathlib import Path

from sia_core.host.secret import secret

_VARIABLES = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


def provide_token(private: Path, environment: MutableMapping[str, str] = os.environ) -> None:
    """Make a token and name its file in the environment, unless you have named one. Idempotent.

    Args:
        private: directory that only this user can read.
        environment: variables that Ray and its processes read.

    Raises:
        RecordError: the file cannot be written, or others can read it.
    """
    if not any(environment.get(name) for name in _VARIABLES):
        file = private / "auth_token"
        secret(file)
        environment["RAY_AUTH_TOKEN_PATH"] = str(file)
