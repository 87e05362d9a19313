"""`sia resume RUN`: resume an interrupted run."""

from typing import Annotated, Any

import typer

from sia_core.cli.run import UiOption
from sia_core.cli.settings import with_settings
from sia_core.domain.config import RunConfig
from sia_core.domain.setting import options

CHANGED = tuple(one.name for one in options(RunConfig) if one.setting.can_resume)


@with_settings(CHANGED, is_change=True)
def resume(
    run: Annotated[str, typer.Argument(help="Name of a run, its beginning, its task, or latest; see sia status.")],
    generations: Annotated[
        int | None, typer.Option(min=1, help="Total number of generations; more extend a finished run.")
    ] = None,
    ui: UiOption = True,
    **settings: Any,
) -> None:
    """Finish an interrupted run, without repeating finished work."""
    from sia_core.cli.drive import go_on  # Loads Prefect, Ray and MLflow.
    from sia_core.loop.configure import read_settings

    go_on(run, ui=ui, generations=generations, changes=read_settings(settings))
