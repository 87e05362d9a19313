"""Find the kind of an external task in a directory, and read what its import needs.

- `sia-agent`: data/public, data/private, and an evaluate.py (in data/public, data/private or above) that takes
  `--gen-dir DIR` with the submission in it and leaves DIR/results.json.
- `mlebench`: prepared/public, prepared/private (or public and private themselves), and a grade.py with
  `grade(submission, answers)` on data frames.
- `openevolve`: an initial program and an evaluator with `evaluate(path of the program)`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sia_core.domain.errors import UsageError
from sia_core.importers.files import checked, regular_files
from sia_core.importers.table import Table, read_file

Kind = Literal["sia-agent", "mlebench", "openevolve"]
_TEXTS = ("task.md", "description.md", "README.md")
_LAYOUTS = (("data/public", "data/private"), ("prepared/public", "prepared/private"), ("public", "private"))
GRADERS = {"evaluate.py": "sia-agent", "grade.py": "mlebench"}


@dataclass(frozen=True)
class Predictions:
    """A task whose answer is a table of predictions."""

    kind: Kind
    folder: Path
    public: Path
    private: Path
    grader: Path
    answers: Path
    """Private file with the table of true answers."""
    table: Table
    id: str
    """Column that identifies rows in all tables with test rows."""
    split: tuple[str, ...]
    """Public files with test rows; a problem shows only its own rows."""
    submission: str
    columns: tuple[str, ...]
    """Columns of a submission; empty without a sample."""


@dataclass(frozen=True)
class Pair:
    """An initial program and its evaluator."""

    kind: Kind
    program: Path
    evaluator: Path


def find(sources: Sequence[Path], *, id_column: str = "", grader: Path | None = None) -> Predictions | Pair:
    """Return the task that these paths hold: a table of predictions, or a program with its evaluator.

    Raises:
        UsageError: the paths hold no known kind of task.
    """
    missing = [str(source) for source in sources if not source.exists()]
    if missing:
        raise UsageError(f"no such file or directory: {', '.join(missing)}", where="sia task import")
    if len(sources) == 2 and all(source.is_file() for source in sources):
        return _pair(*sources)
    if len(sources) == 1 and sources[0].is_dir():
        return _in_directory(sources[0].resolve(), id_column, grader)
    raise UsageError(
        f"{len(sources)} paths that are neither a directory nor a program and its evaluator",
        where="sia task import",
        hint="give one directory, or: sia task import initial_program.py evaluator.py --to PATH",
    )


def _in_directory(folder: Path, id_column: str, grader: Path | None) -> Predictions | Pair:
    for public, private in _LAYOUTS:
        if (folder / public).is_dir() and (folder / private).is_dir():
            parts = (checked(folder / public, folder), checked(folder / private, folder))
            return _predictions(folder, *parts, id_column, grader)
    programs = sorted(folder.glob("initial_program.*"))
    if programs and (folder / "evaluator.py").is_file():
        return _pair(checked(programs[0], folder), checked(folder / "evaluator.py", folder))
    layouts = " or ".join(f"{public} and {private}" for public, private in _LAYOUTS)
    raise UsageError(
        "holds no known kind of task",
        where=str(folder),
        hint=f"it needs {layouts}; or initial_program.* and evaluator.py",
    )


def _pair(one: Path, two: Path) -> Pair:
    program, evaluator = (two, one) if "def evaluate(" in one.read_text(errors="replace") else (one, two)
    if "def evaluate(" not in evaluator.read_text(errors="replace"):
        raise UsageError("neither file has a function evaluate(program_path)", where=f"{one}, {two}")
    return Pair("openevolve", program.absolute(), evaluator.absolute())


def _predictions(folder: Path, public: Path, private: Path, id_column: str, asked: Path | None) -> Predictions:
    grader = asked or _grader(folder, public, private)
    kind: Kind = "sia-agent" if grader.name == "evaluate.py" else "mlebench"
    tables = {
        file.relative_to(public).as_posix(): read_file(file) for file in regular_files(public, folder) if file != grader
    }
    samples = [name for name, table in tables.items() if table and "sample" in name.lower()]
    sample = tables[samples[0]] if samples else None
    columns = sample.columns if sample is not None else ()
    answers, table = _answers(folder, private, columns, id_column)
    column = id_column or _id_column(table, columns)
    known = set(table.ids(column))
    split = [name for name, one in tables.items() if one is not None and _is_test(one, column, known)]
    submission = "submission.csv" if kind == "mlebench" or answers.suffix == ".csv" else "submission.json"
    return Predictions(
        kind, folder, public, private, grader, answers, table, column, tuple(split), submission, tuple(columns)
    )


def _grader(folder: Path, public: Path, private: Path) -> Path:
    for place in (public, private, folder, folder / "data"):
        for name in GRADERS:
            if (place / name).is_file():
                return checked(place / name, folder)
    raise UsageError(
        "no evaluate.py and no grade.py",
        where=str(folder),
        hint="name the grader: --grader FILE (MLE-bench: its grade.py)",
    )


def _answers(folder: Path, private: Path, columns: Sequence[str], id_column: str) -> tuple[Path, Table]:
    """Find the private table with the columns of a submission; without a sample, the only table."""
    found = [(file, table) for file in regular_files(private, folder) if (table := read_file(file)) is not None]
    wanted = {*columns, *([id_column] if id_column else [])}
    fitting = [(file, table) for file, table in found if wanted <= set(table.columns)] or found
    if not fitting:
        raise UsageError("no table of answers (.csv, or a .json list of objects)", where=str(private))
    if len(fitting) > 1:
        fitting = [one for one in fitting if "answer" in one[0].name or "test" in one[0].name] or fitting
    return fitting[0]


def _id_column(table: Table, columns: Sequence[str]) -> str:
    first = [name for name in (*columns[:1], "id", "ID", "Id", *table.columns) if name in table.columns]
    for name in first:
        ids = table.ids(name)
        if len(set(ids)) == len(ids):
            return name
    raise UsageError("no column of the answers identifies its rows", hint="name one: --id COLUMN")


def _is_test(table: Table, column: str, known: set[str]) -> bool:
    return column in table.columns and set(table.ids(column)) <= known


def description(folders: Sequence[Path], otherwise: str) -> str:
    """Read the text that describes the task."""
    for folder in folders:
        for name in _TEXTS:
            if (folder / name).is_file():
                return checked(folder / name, folder).read_text(encoding="utf-8-sig", errors="replace")
    return otherwise
