"""`sia init DIR`: a small working task to make your own, from the templates that ship with the package.

answer     short questions with one right answer, compared as text
classify   texts with one label each; the policy chooses among the labels
program    the answer is a program, run in the sandbox and judged by what it leaves behind
"""

import re
import shutil
from pathlib import Path
from typing import Annotated, Literal, get_args

import typer

from sia_core.domain.command import command, quoted
from sia_core.domain.errors import UsageError
from sia_core.host.directories import new_directory


def init(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="New directory, whose name becomes the task's.")],
    kind: Annotated[str, typer.Option(help="Kind of answer: answer, program or classify.")] = "answer",
) -> None:
    """Write a small working task into DIR."""
    path = write_scaffold(directory, parse_kind(kind))
    print(f"{kind} task written to {path}")
    check, run = command("sia", "check", directory), command("sia", "run", directory)
    print(f"  next: {check}; {run}; then make it your own: {quoted(directory / 'README.md')}")


Kind = Literal["answer", "program", "classify"]
KINDS: tuple[Kind, ...] = get_args(Kind)
TEMPLATES = Path(__file__).parents[1] / "templates"
PLACEHOLDER = "my-task"
"""Stands for the task's name in every file of a template."""


def write_scaffold(target: Path, kind: Kind) -> Path:
    """Write a task of that kind into a new directory, which appears whole; its name is the directory's.

    Raises:
        UsageError: there is something at `target` already.
        RecordError: it cannot be written.
    """
    with new_directory(target) as folder:
        shutil.copytree(TEMPLATES / kind, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        name = task_name(target.absolute()).encode()
        for file in folder.rglob("*"):
            if file.is_file():
                file.write_bytes(file.read_bytes().replace(PLACEHOLDER.encode(), name))
    return target.expanduser().absolute()


def task_name(folder: Path) -> str:
    """A task's name made of a directory's: small letters, digits, `-` and `_`."""
    return re.sub(r"[^a-z0-9_]+", "-", folder.name.lower()).strip("-_") or PLACEHOLDER


def parse_kind(text: str) -> Kind:
    """The kind of that name.

    Raises:
        UsageError: there is none.
    """
    for kind in KINDS:
        if kind == text:
            return kind
    raise UsageError(f"unknown kind {text!r}", where="--kind", hint=f"use one of: {', '.join(KINDS)}")
