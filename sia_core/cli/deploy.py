"""`sia deploy [TASK...]`: what can be started from the Prefect UI."""

from typing import Annotated

import typer


def deploy(
    tasks: Annotated[
        list[str] | None, typer.Argument(help="Paths of tasks of your own; the shipped ones always.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Runs at a time over all workers; as many as they take when not given.")
    ] = None,
) -> None:
    """Register deployments, their work pool and the watch over dead runs with the Prefect server."""
    from sia_core.cli import servers  # Loads Prefect and MLflow.

    servers.use_prefect()
    from flows.registration import deploy as register

    for name in register(tasks or [], limit):
        print(name)
    print("  next: sia worker, in a terminal of its own; then start runs in the Prefect UI")
    servers.print_links()
