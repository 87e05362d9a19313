"""Write a small working task from the templates that ship with the package, for `sia init`.

| template | answer |
|---|---|
| answer | a short text with one correct value, compared as text |
| classify | one label for a text, which the policy chooses from a list |
| program | a program, run in the sandbox and judged by its output |
"""

import re
import shutil
from pathlib import Path
from typing import Literal, get_args

from sia_core.domain.errors import UsageError
from sia_core.host.atomic_dir import new_directory

Kind = Literal["answer", "program", "classify"]
KINDS: tuple[Kind, ...] = get_args(Kind)
TEMPLATES = Path(__file__).parents[1] / "templates"
PLACEHOLDER = "my-task"
"""Placeholder of the task's name in the files of a template."""


def write_scaffold(target: Path, kind: Kind) -> Path:
    """Write a task into a new directory, which appears whole and gives the task its name.

    Raises:
        UsageError: `target` already exists.
        RecordError: the directory cannot be written.
    """
    with new_directory(target) as folder:
        shutil.copytree(TEMPLATES / kind, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        name = task_name(target.absolute()).encode()
        for file in folder.rglob("*"):
            if file.is_file():
                file.write_bytes(file.read_bytes().replace(PLACEHOLDER.encode(), name))
    return target.expanduser().absolute()


def task_name(folder: Path) -> str:
    """Make a task's name from a directory's: lower-case letters, digits, `-` and `_`."""
    return re.sub(r"[^a-z0-9_]+", "-", folder.name.lower()).strip("-_") or PLACEHOLDER


def parse_kind(text: str) -> Kind:
    """Parse a kind.

    Raises:
        UsageError: the kind is unknown.
    """
    for kind in KINDS:
        if kind == text:
            return kind
    raise UsageError(f"unknown kind {text!r}", where="--kind", hint=f"use one of: {', '.join(KINDS)}")
