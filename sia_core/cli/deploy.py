"""`sia deploy [TASK...]`: register what you can start from the Prefect UI."""

from typing import Annotated

import typer


def deploy(
    tasks: Annotated[
        list[str] | None, typer.Argument(help="Paths of your own tasks; shipped tasks are always included.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Runs at a time over all workers; no limit if not given.")
    ] = None,
) -> None:
    """Register deployments, their work pool and the watch for crashed runs with the Prefect server."""
    from sia_core.cli import servers  # Loads Prefect and MLflow.

    servers.use_prefect(keep=True)
    from flows.registration import deploy as register

    for name in register(tasks or [], limit):
        print(name)
    print("  next: sia worker, in another terminal; then start runs in the Prefect UI")
    servers.print_links()
