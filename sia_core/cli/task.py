"""`sia task import`: import tasks of other systems as task directories."""

from pathlib import Path
from typing import Annotated

import typer

SHOWN = 20
"""Copied files that are named."""

task = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Work with task directories.")


@task.callback()
def _group() -> None:
    """Make `import` a subcommand, although it is the only verb."""


@task.command("import")
def import_(
    source: Annotated[list[Path], typer.Argument(help="Directory, or initial program and its evaluator.")],
    to: Annotated[Path, typer.Option(help="Task directory to write.")],
    name: Annotated[str, typer.Option(help="Name of the task; from --to if not given.")] = "",
    metric: Annotated[str, typer.Option(help="Figure of the grader that is the score.")] = "",
    score_range: Annotated[tuple[float, float], typer.Option("--range", help="Least and greatest score.")] = (0.0, 1.0),
    lower_is_better: Annotated[bool, typer.Option(help="Score by 1 / (1 + figure).")] = False,
    id_column: Annotated[str, typer.Option("--id", help="Column that identifies rows of the test set.")] = "",
    grader: Annotated[Path | None, typer.Option(help="evaluate.py or grade.py, if elsewhere.")] = None,
    problems: Annotated[int, typer.Option(min=2, help="Problems of each split.")] = 4,
    seconds: Annotated[float, typer.Option(min=1, help="Seconds of one program, and of one grading.")] = 60.0,
    sandbox: Annotated[str, typer.Option(help="Sandbox tier for measuring an initial program.")] = "strict",
    memory: Annotated[int, typer.Option(min=256, help="MB of one program, and of one grading.")] = 2048,
) -> None:
    """Import a sia-agent task, an MLE-bench competition or an OpenEvolve pair, with a trusted grader."""
    from sia_core.check.task import measure_gold
    from sia_core.domain.command import command
    from sia_core.domain.task import Task
    from sia_core.importers.find import Pair, find
    from sia_core.importers.write import Options, declare_first, write_task
    from sia_core.loop.configure import parse_tier

    low, high = score_range
    options = Options(name, metric, low, high, lower_is_better, problems, seconds, memory)
    found = find(source, id_column=id_column, grader=grader.resolve() if grader is not None else None)
    path = write_task(found, to.expanduser().absolute(), options)
    print(f"{found.kind} task written to {path}")
    copied = sorted(file.relative_to(path).as_posix() for file in (path / "original").rglob("*") if file.is_file())
    print(f"  copied: {', '.join(copied[:SHOWN])}{f' and {len(copied) - SHOWN} more' * (len(copied) > SHOWN)}")
    if isinstance(found, Pair):
        first = measure_gold(Task.load(path), parse_tier(sandbox))
        declare_first(path, first.score)
        print(f"the initial program scores {first.score:.6g}: {first.feedback}")
    print(f"  next: {command('sia', 'check', path)}")
