"""Start a local Ray while MLflow and Prefect import, and exit cleanly if interrupted before Ray is ready."""

import os
import signal
import sys
from typing import NoReturn


def begin(policy: str) -> None:
    """Start a local Ray in the background, unless this process has secrets that Ray must not see."""
    from sia_core.engine import cluster
    from sia_core.engine.keys import secrets
    from sia_core.host.signals import interrupt

    signal.signal(signal.SIGTERM, interrupt)  # Ray's own handler is replaced by this one again.
    if not secrets(policy):
        cluster.begin()


def end(code: object) -> NoReturn:
    """End the process as `sys.exit` does, but immediately while Ray is still starting.

    The interpreter would wait for Ray, and sometimes hang in its last garbage collection. The kernel ends Ray's
    processes with this one.
    """
    cluster = sys.modules.get("sia_core.engine.cluster")
    if cluster is not None and cluster.coming_up():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else code is not None)
    sys.exit(code)  # type: ignore[arg-type]
