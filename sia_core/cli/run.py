"""`sia run TASK`: start a run and finish it."""

from typing import Annotated, Any

import typer

from sia_core.cli.settings import with_settings
from sia_core.domain.config import RunConfig
from sia_core.domain.setting import options

UiOption = Annotated[bool, typer.Option("--ui/--no-ui", help="Start both UIs at the end.")]


@with_settings(one.name for one in options(RunConfig))
def run(
    task: Annotated[str, typer.Argument(help="Name of a task that ships with SIA, or a path to one.")],
    ui: UiOption = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and end.")] = False,
    **settings: Any,
) -> None:
    """Improve a task agent on TASK."""
    from sia_core.loop.configure import build_config

    config = build_config(task, **settings)
    branch_from, seed = settings["branch_from"], settings["seed"]
    if branch_from is not None:
        from sia_core.loop.create_run import branch  # Loads MLflow.

        config = branch(config, branch_from, seed)
    if dry_run:
        print_plan(config)
        return
    from sia_core.cli.warm_start import begin

    begin(config.policy)
    from sia_core.cli.drive import start  # Loads Prefect and MLflow.

    start(config, ui=ui)


def print_plan(config: RunConfig) -> None:
    """Print the plan of the run, with the rollouts of each phase."""
    from sia_core.cli.plain import plain_lines
    from sia_core.loop.plan_text import plan_lines

    print(plain_lines("\n".join(plan_lines(config))))
