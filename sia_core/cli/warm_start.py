"""Start a local Ray while MLflow and Prefect import, and exit cleanly if interrupted before Ray is ready."""

import os
import signal
import sys
from typing import NoReturn


def begin(policy: str) -> None:
    """Start a local Ray in the background, unless this process needs secrets that Ray must not get."""
    from sia_core.engine import cluster
    from sia_core.engine.keys import secrets
    from sia_core.host.signals import interrupt

    signal.signal(signal.SIGTERM, interrupt)  # What Ray puts in its place is put back by what was there.
    if not secrets(policy):
        cluster.begin()


def end(code: object) -> NoReturn:
    """End the process as `sys.exit` does, but at once where Ray is still coming up.

    The interpreter would wait for it, and now and then hang in its last garbage collection. Ray's processes end with
    this one, by the kernel's hand.
    """
    cluster = sys.modules.get("sia_core.engine.cluster")
    if cluster is not None and cluster.coming_up():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else code is not None)
    sys.exit(code)  # type: ignore[arg-type]
