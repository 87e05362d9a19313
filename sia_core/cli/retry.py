"""`sia retry RUN --generation N`: make a generation of a run again, and see the run through."""

from typing import Annotated

import typer

from sia_core.cli.run import UiOption


def retry(
    run: Annotated[str, typer.Argument(help="Name of a run, or how it begins; see sia status.")],
    generation: Annotated[int, typer.Option(min=1, help="The first generation to make again; later ones follow.")],
    fork: Annotated[
        bool, typer.Option("--fork", help="Leave the run as it is, and go on in a child run, with what has changed.")
    ] = False,
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A setting of the child run; repeatable.")
    ] = None,
    ui: UiOption = True,
) -> None:
    """Forget what a generation and later ones decided, which the record keeps, and make them again."""
    from sia_core.domain.errors import UsageError

    given = dict(change.split("=", 1) for change in changes or () if "=" in change)
    if len(given) < len(changes or ()):
        raise UsageError("wants NAME=VALUE, each name once", where="--set", hint="--set agent=rules")
    from sia_core.cli.drive import go_back  # Loads Prefect, Ray and MLflow.

    go_back(run, generation, forked=fork, changes=given, ui=ui)
