"""Write an imported task as an ordinary task directory.

    task.toml task.md task.py harness/ README.md     as every task has them
    import.json                                       data that the imported functions of task.py need
    `original/`                                        unchanged files of the other system

The directory is complete or absent: it is made beside the target and renamed.
"""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tomlkit

from sia_core.domain.errors import UsageError
from sia_core.domain.lab import Limits
from sia_core.host.directories import new_directory
from sia_core.importers.files import copy_files, named_files, regular_files
from sia_core.importers.find import GRADERS, Pair, Predictions, description
from sia_core.importers.table import deal

HARNESS = Path(__file__).parent / "harness"
_FORKS = re.compile(r"\b(subprocess|multiprocessing|ProcessPoolExecutor)\b")


@dataclass(frozen=True)
class Options:
    """Settings that you give because the task's files do not hold them."""

    name: str = ""
    metric: str = ""
    low: float = 0.0
    high: float = 1.0
    lower_is_better: bool = False
    problems: int = 4
    """Number of problems of each split."""
    seconds: float = 60.0
    """Seconds that one program, and one grading, may take."""
    memory_mb: int = 2048


def write_task(source: Predictions | Pair, target: Path, options: Options) -> Path:
    """Write the task directory.

    Raises:
        UsageError: the target exists, or an option is invalid.
        TaskError: the rows cannot be dealt out.
    """
    if not options.low < options.high:
        raise UsageError(f"--range {options.low:g} {options.high:g} is empty")
    write: Callable[[Any, Path, Options, str], None] = _pair if isinstance(source, Pair) else _predictions
    with new_directory(target) as folder:
        write(source, folder, options, options.name or _name(target.name))
    return target


def declare_first(folder: Path, score: float) -> None:
    """Write the initial program's score into task.toml, as the score of an unchanged program."""
    file = folder / "task.toml"
    document = tomlkit.parse(file.read_text())
    document["check"] = {"chance": score, "gold": score}
    file.write_text(tomlkit.dumps(document))


def _predictions(source: Predictions, folder: Path, options: Options, name: str) -> None:
    original = folder / "original"
    public, _ = (
        copy_files([file for file in regular_files(part, source.folder) if file.name not in GRADERS], part, place)
        for part, place in ((source.public, original / "public"), (source.private, original / "private"))
    )
    copy_files([source.grader], source.grader.parent, original)
    deal(source.table.ids(source.id), 3 * options.problems, name)  # Raises if there are too few rows.
    inside = source.grader.is_relative_to(source.folder)
    text = description((source.public, source.folder), f"Predict {source.submission}.")
    table = {
        **_common(source.kind, name, options, "score" if source.kind == "mlebench" else "accuracy"),
        "description": text,
        "id": source.id,
        "answers": source.answers.relative_to(source.private).as_posix(),
        "split": list(source.split),
        "public": public,
        "grader": source.grader.name,
        "grader_place": source.grader.relative_to(source.folder).as_posix() if inside else source.grader.name,
        "submission": source.submission,
        "columns": list(source.columns),
        "seconds": options.seconds,
        "memory_mb": options.memory_mb,
        "limits": asdict(Limits(options.seconds, options.seconds, options.memory_mb, 256, 64, 64)),
    }
    note = (
        f"The {len(source.table.rows)} rows of the test set are dealt out by `{source.id}` to {3 * options.problems} "
        "problems, so that train, gate and test share none. The grader (`original/`) is trusted like a task.py; it "
        "runs outside the sandbox in its own process, with limits, for each verdict. A program in an answer "
        "runs in the sandbox and reads public files only."
    )
    _write(folder, table, "submission", text, note)


def _pair(source: Pair, folder: Path, options: Options, name: str) -> None:
    original, home = folder / "original", source.evaluator.parent
    original.mkdir()
    copy_files(set(named_files([source.evaluator, source.program], home)) - {source.program}, home, original)
    copy_files([source.program], source.program.parent, original)
    files = sorted(file.name for file in original.iterdir())
    forks = bool(_FORKS.search(source.evaluator.read_text(errors="replace")))
    limits = Limits(options.seconds, options.seconds, options.memory_mb, 64, 256, 8, subprocesses=forks)
    text = description((home,), "Improve the program; its evaluator says how good it is.")
    table = {
        **_common(source.kind, name, options, "combined_score"),
        "description": text,
        "program": source.program.name,
        "initial": source.program.name,
        "evaluator": source.evaluator.name,
        "files": files,
        "limits": asdict(limits),
    }
    note = (
        "There is one problem, numbered: no data are held out, so gate and test repeat it, and a gain there shows that "
        "a program is better on this problem, not on others. The evaluator runs the program in its own process, so "
        "both run in the sandbox, separate from the harness's; a program written to cheat can forge the result of "
        "such an evaluator."
    )
    _write(folder, table, "program", text, note)


def _common(kind: str, name: str, options: Options, metric: str) -> dict[str, Any]:
    return {
        "kind": kind,
        "name": name,
        "metric": options.metric or metric,
        "named": bool(options.metric),
        "range": [options.low, options.high],
        "lower_is_better": options.lower_is_better,
        "problems": options.problems,
    }


def _write(folder: Path, table: dict[str, Any], form: str, text: str, note: str) -> None:
    (folder / "import.json").write_text(json.dumps(table, indent=2, ensure_ascii=False) + "\n")
    (folder / "task.toml").write_text(_toml(table))
    (folder / "task.md").write_text(text.rstrip() + "\n")
    owner = {"submission": "SubmissionTask", "program": "ProgramTask"}[form]
    (folder / "task.py").write_text(
        f'"""Imported from {table["kind"]}; see README.md."""\n\nfrom pathlib import Path\n\n'
        f"from sia_core.importers.{form} import {owner}\n\n"
        f"_TASK = {owner}(Path(__file__).parent)\nload, verify, gold = _TASK.load, _TASK.verify, _TASK.gold\n"
    )
    shutil.copytree(HARNESS / form, folder / "harness", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(HARNESS / "agent.py", folder / "harness" / "agent.py")
    (folder / "README.md").write_text(
        f"# {table['name']}: imported from {table['kind']}\n\n{note}\n\n"
        f"Score: `{table['metric']}`{' through 1 / (1 + x)' if table['lower_is_better'] else ''}, cut off at "
        f"{table['range'][0]:g} and {table['range'][1]:g}. `sia check` says whether the task is sound.\n"
    )


def _toml(table: dict[str, Any]) -> str:
    document = tomlkit.document()
    document["name"] = table["name"]
    document["title"] = f"{table['name']} ({table['kind']})"
    document["metric"] = table["metric"]
    document["score_range"] = table["range"]
    count = table["problems"]
    document["plan"] = {
        "generations": 4,
        "problems": count,
        "rollouts": 2,
        "gate_problems": count,
        "gate_rollouts": 2,
        "test_problems": count,
        "test_rollouts": 2,
    }
    document["limits"] = {"seconds": 900.0, "verify_seconds": 600.0, "memory_mb": 1024}
    document["sampling"] = {"max_tokens": 6000}
    return tomlkit.dumps(document)


def _name(text: str) -> str:
    name = re.sub(r"[^a-z0-9_-]+", "-", text.lower()).strip("-_")
    if not name:
        raise UsageError(f"{text!r} cannot be a task's name", hint="give one: --name NAME")
    return name
