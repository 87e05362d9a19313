"""`sia init DIR`: write a small working task to adapt."""

from pathlib import Path
from typing import Annotated

import typer


def init(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="New directory, whose name becomes the task's.")],
    kind: Annotated[str, typer.Option(help="Kind of answer: answer, program or classify.")] = "answer",
) -> None:
    """Write a small working task into DIR."""
    from sia_core.cli.scaffold import parse_kind, write_scaffold

    path = write_scaffold(directory, parse_kind(kind))
    print(f"{kind} task written to {path}")
    print(f"  next: sia check {directory}; sia run {directory}; then adapt it: {directory}/README.md")
