"""`sia data fetch TASK` and `sia data list`: fetch and list the data of tasks."""

from typing import TYPE_CHECKING, Annotated

import typer

from sia_core.domain.command import command

if TYPE_CHECKING:
    from sia_core.domain.task import Task

data = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Fetch or list the data of tasks.")


@data.command()
def fetch(
    task: Annotated[str, typer.Argument(help="Name of a task that ships with SIA, or a path to one.")],
    only: Annotated[
        str, typer.Argument(metavar="[SET]", help="One of the task's data sets, as listed by `sia data list`.")
    ] = "",
) -> None:
    """Fetch the data of TASK. Interrupted downloads are resumed, and existing files are kept."""
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
    """List the data of the tasks that ship with SIA, and their files on this machine."""
    from sia_core.domain.task import Task, task_names

    for name in task_names():
        _print(Task.load(name))


def _print(task: "Task") -> None:
    sets = task.data_sets()
    if not sets:
        fetch = command("sia", "data", "fetch", task.where)
        print(f"{task.name:12} does not list its data; fetch them with {fetch}")
    for name, file in sets.items():
        state = f"{file.stat().st_size / 1e6:.1f} MB in {file}" if file.is_file() else "not here"
        print(f"{task.name:12} {name:14} {state}")
