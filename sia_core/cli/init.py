"""`sia init DIR`: a small working task to make your own."""

from pathlib import Path
from typing import Annotated

import typer


def init(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A new directory; its name is the task's.")],
    kind: Annotated[str, typer.Option(help="answer, program or classify: what an answer is.")] = "answer",
) -> None:
    """Write a small working task into DIR."""
    from sia_core.cli.scaffold import parse_kind, write_scaffold

    path = write_scaffold(directory, parse_kind(kind))
    print(f"{kind} task written to {path}")
    print(f"  next: sia check {directory}; sia run {directory}; then make it your own: {directory}/README.md")
