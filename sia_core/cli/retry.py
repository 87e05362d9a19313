"""`sia retry RUN --generation N`: repeat a generation of a run, and finish the run."""

from typing import Annotated

import typer

from sia_core.cli.run import UiOption


def retry(
    run: Annotated[str, typer.Argument(help="Name of a run, its beginning, its task, or latest; see sia status.")],
    generation: Annotated[int, typer.Option(min=1, help="First generation to repeat; later ones are repeated too.")],
    fork: Annotated[
        bool, typer.Option("--fork", help="Leave the run unchanged, and continue in a child run with your changes.")
    ] = False,
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Setting of the child run; repeatable.")
    ] = None,
    ui: UiOption = True,
) -> None:
    """Forget the decisions of a generation and later ones, which the record keeps, and repeat them."""
    from sia_core.domain.errors import UsageError

    given = dict(change.split("=", 1) for change in changes or () if "=" in change)
    if len(given) < len(changes or ()):
        raise UsageError("expected NAME=VALUE, with each name once", where="--set", hint="--set agent=rules")
    from sia_core.cli.drive import go_back  # Loads Prefect, Ray and MLflow.

    go_back(run, generation, forked=fork, changes=given, ui=ui)
