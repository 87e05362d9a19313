"""What a verb begins before it imports MLflow and Prefect, which takes seconds, and how it ends meanwhile."""

import os
import signal
import sys
from typing import NoReturn


def begin(policy: str) -> None:
    """Let a local Ray come up meanwhile, unless there are secrets to keep from it: this process needs them."""
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
