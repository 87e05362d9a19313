"""`sia resume RUN`: go on with a run that was interrupted."""

from typing import Annotated

import typer

from sia_core.cli.run import UiOption


def resume(
    run: Annotated[str, typer.Argument(help="Name of a run, or how it begins; see sia status.")],
    budget: Annotated[str, typer.Option(help="What it may spend from now on, all sittings together.")] = "",
    generations: Annotated[
        int | None, typer.Option(min=1, help="Generations it is to have in all: a finished run is extended.")
    ] = None,
    agent_timeout: Annotated[
        int | None,
        typer.Option(min=1, help="From now on, seconds of silence after which the agent's model is given up."),
    ] = None,
    ui: UiOption = True,
) -> None:
    """Finish an interrupted run; what is finished is not run again."""
    from sia_core.cli.drive import go_on  # Loads Prefect, Ray and MLflow.
    from sia_core.domain.budget import Budget

    allowed = Budget.parse(budget) if budget else None
    go_on(run, ui=ui, budget=allowed, generations=generations, agent_timeout=agent_timeout)
