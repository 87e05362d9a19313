"""`sia task import`: tasks of other systems, as ordinary task directories."""

import typer

task = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Work with task directories.")


@task.callback()
def _group() -> None:
    """Keeps `import` a word of its own while it is the only verb."""
