"""`sia data fetch TASK` and `sia data list`: the data that tasks need."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sia_core.domain.task import Task

data = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Fetch the data of tasks, or see what is there.")


@data.command()
def fetch(
    task: Annotated[str, typer.Argument(help="Name of a task that ships with SIA, or a path to one.")],
    only: Annotated[
        str, typer.Argument(metavar="[SET]", help="One of its data sets, as `sia data list` names them.")
    ] = "",
) -> None:
    """Have the data of TASK on this machine. What was cut goes on where it broke; what is there stays."""
    from rich.console import Console

    from sia_core.cli.live import Live
    from sia_core.domain.task import Task

    loaded = Task.load(task)
    with Live(Console(stderr=True)) as live:
        if only:
            loaded.prepare_set(only, live.progress)
        else:
            loaded.prepare(live.progress)
    _print(loaded)


@data.command("list")
def list_() -> None:
    """Show which data of the tasks that ship with SIA are on this machine."""
    from sia_core.domain.task import Task, task_names

    for name in task_names():
        _print(Task.load(name))


def _print(task: "Task") -> None:
    sets = task.data_sets()
    if not sets:
        print(f"{task.name:12} does not say where its data are; sia data fetch {task.where} sees to them")
    for name, file in sets.items():
        state = f"{file.stat().st_size / 1e6:.1f} MB in {file}" if file.is_file() else "not here"
        print(f"{task.name:12} {name:14} {state}")
