"""`sia worker`: run on this machine what is started in the Prefect UI."""

import os
import sys
from typing import Annotated

import typer


def worker(
    limit: Annotated[int, typer.Option(min=1, help="Runs at a time; each takes all CPUs it can get.")] = 1,
) -> None:
    """Serve SIA's work pool until Ctrl-C. Everything it starts uses this SIA_HOME and these servers."""
    # It is there to be watched; the commands that silence Prefect are those that tell by themselves how it goes.
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "INFO")
    from sia_core.cli import servers  # Loads Prefect and MLflow.

    servers.launch_prefect()  # Says which servers these are.
    servers.use_prefect()
    from flows.crashed_runs import reap
    from flows.registration import POOL
    from sia_core.loop.create_run import record

    record()  # The store must exist before two runs open it at once.
    for name in reap():
        print(f"{name}: died without a word, and is marked as crashed; retry it to go on", flush=True)
    # Prefect's own worker takes this process over: its signals, its log, its exit code.
    words = ["worker", "start", "--pool", POOL, "--type", "process", "--limit", str(limit)]
    os.execv(sys.executable, [sys.executable, "-P", "-m", "prefect", *words])
