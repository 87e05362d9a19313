"""What a verb begins before it imports MLflow and Prefect, which takes seconds."""

import signal

from sia_core.engine import cluster
from sia_core.engine.keys import secrets
from sia_core.interrupts import interrupt


def begin(policy: str) -> None:
    """Let a local Ray come up meanwhile, unless there are secrets to keep from it: this process needs them."""
    signal.signal(signal.SIGTERM, interrupt)  # What Ray puts in its place is put back by what was there.
    if not secrets(policy):
        cluster.begin()
