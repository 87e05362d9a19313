"""`sia ui`: start the Prefect and MLflow UIs."""

from typing import Annotated

import typer


def ui(
    prefect_port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port for Prefect.")] = None,
    mlflow_port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port for MLflow.")] = None,
    stop: Annotated[bool, typer.Option("--stop", help="Stop both servers.")] = False,
) -> None:
    """Start or find both UIs and print their links."""
    from sia_core.cli import servers

    if stop:
        servers.stop()
    else:
        servers.start(prefect_port, mlflow_port)
        servers.print_links()
