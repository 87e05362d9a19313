"""`sia worker`: run what you start in the Prefect UI on this machine."""

import os
import sys
from typing import Annotated

import typer


def worker(
    limit: Annotated[int, typer.Option(min=1, help="Runs at a time; each uses all available CPUs.")] = 1,
) -> None:
    """Serve SIA's work pool until Ctrl-C, with this SIA_HOME and these servers."""
    # You watch a worker by Prefect's log, which other commands silence because they print progress themselves.
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "INFO")
    from sia_core.cli import servers  # Loads Prefect and MLflow.

    servers.launch_prefect()  # Prints the servers.
    servers.use_prefect()
    from flows.crashed_runs import reap
    from flows.registration import POOL
    from sia_core.loop.create_run import record

    record()  # The store must exist before two runs open it at once.
    for name in reap():
        print(f"{name}: crashed without an error message and is marked as crashed; retry it to continue", flush=True)
    servers.hand_on()
    # Prefect's worker replaces this process, with its signals, log and exit code.
    words = ["worker", "start", "--pool", POOL, "--type", "process", "--limit", str(limit)]
    os.execv(sys.executable, [sys.executable, "-P", "-m", "prefect", *words])
