"""Load a task: problems and a deterministic verifier, in one directory anywhere on disk.

`task.toml` declares the task. `task.py` defines `load(split)` and `verify(problem, answer, lab)`, and may define the
functions below. `task.py` is trusted code: it runs in verifier processes and in the driver, never in the sandbox, and
`Problem.private` never leaves these processes.

| function | purpose |
|---|---|
| `prepare(progress)` | fetch data |
| `canaries(split)` | find leaks |
| `gold(problem)`, `baits(problem)` | answers for `sia check` |
| `shared()` | directory that every harness may read |
| `report(split, rollouts)` | figures of a sealed test |

A *form* is another way to work on the same problems, with its own harness, limits and plan: `NAME:FORM` lays the table
[forms.FORM] of task.toml over the rest. Scores of different forms compare, because verifier and digest are the same.
"""

import importlib.util
import inspect
import math
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

from sia_core.domain.canary import Canaries
from sia_core.domain.errors import TaskError, UsageError
from sia_core.domain.hashing import digest_bytes, digest_files
from sia_core.domain.lab import Lab
from sia_core.domain.rollout import SPLITS, Rollout, Sampling, Split, Turn, Verdict
from sia_core.domain.task_config import TaskConfig, read_config

RECORDED = "recorded.json"
"""File of decisions that ship with a task; not part of the task's digest, which it names."""
ARMS = "arms.json"
"""File with the sealed scores of a comparison; not part of the task's digest."""
Progress = Callable[[str, int, int], None]
"""Function that is called with (what, done, total) while data are prepared."""
Report = dict[str, float | str]
"""Figures and remarks of a task on a set of rollouts, by name, in the order to show them."""


@dataclass(frozen=True)
class Problem:
    """A problem; the harness sees `public` and may give `files` to programs that it runs."""

    id: str
    split: Split
    public: Mapping[str, Any] = field(default_factory=dict)
    """JSON data that the harness sees."""
    files: Mapping[str, bytes] = field(default_factory=dict)
    """Public inputs too large for JSON, by file name."""
    private: Any = field(default=None, repr=False)


@dataclass(frozen=True)
class Task:
    """A loaded task, which makes its problems on first use and keeps them."""

    path: Path
    config: TaskConfig
    digest: str
    """Digest of all files of the directory but seed harnesses, README.md, recorded.json, arms.json and caches."""
    form: str = ""
    """Name of the form; empty for the plain task."""

    @classmethod
    def load(cls, where: str | Path) -> "Task":
        """Load a task by name, if it ships with the project, or by path; a form may follow after a colon.

        Raises:
            UsageError: the task or form is unknown.
            TaskError: task.toml or task.py is invalid.
        """
        place, form = _split_form(str(where))
        path = find_task(place)
        plain = read_config(path / "task.toml")
        config = read_config(path / "task.toml", form) if form else plain
        return cls(path, config, digest_files(_digested_files(path, plain)), form)

    def file_digests(self) -> dict[str, str]:
        """Compute the digests of all files in the task's digest, by name."""
        files = _digested_files(self.path, read_config(self.path / "task.toml"))
        return {name: digest_bytes(data) for name, data in files.items()}

    @property
    def where(self) -> str:
        """Argument of `load` for this task: name if it ships with the project, else path, with the form."""
        place = self.path.name if self.path.parent == _shipped() else str(self.path)
        return f"{place}:{self.form}" if self.form else place

    @property
    def chance(self) -> float:
        """Greatest mean score of answers without insight."""
        return self.config.score_range[0] if self.config.check.chance is None else self.config.check.chance

    @property
    def name(self) -> str:
        """Name of the task, as MLflow and the command line show it."""
        return self.config.name

    @property
    def sampling(self) -> Sampling:
        """Sampling of the policy on this task."""
        return Sampling(**self.config.sampling.model_dump())

    @property
    def description(self) -> str:
        """Text that agents read."""
        file = self.path / "task.md"
        return file.read_text() if file.exists() else self.config.title

    @cached_property
    def module(self) -> ModuleType:
        """Trusted code of the task, imported from its file.

        Raises:
            TaskError: task.py does not import, or lacks `load` or `verify`.
        """
        file = self.path / "task.py"
        name = f"sia_task_{self.digest[:16]}"
        spec = importlib.util.spec_from_file_location(name, file)
        if spec is None or spec.loader is None:
            raise TaskError("cannot be imported", where=str(file))
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            raise TaskError(f"fails to import: {error!r}", where=str(file)) from error
        for function in ("load", "verify"):
            if not callable(getattr(module, function, None)):
                raise TaskError(f"has no function {function}()", where=str(file), hint="see docs/tasks.md")
        return module

    @cached_property
    def _splits(self) -> dict[Split, tuple[Problem, ...]]:
        return {}

    def prepare(self, progress: Progress) -> None:
        """Fetch what the task needs; a no-op if nothing is missing."""
        prepare = getattr(self.module, "prepare", None)
        if prepare is not None:
            prepare(progress)

    def data_sets(self) -> dict[str, Path]:
        """Return the file of each data set of the task, whether it exists or not; empty if the task names none."""
        known: Callable[[], Mapping[str, Path]] | None = getattr(self.module, "data_sets", None)
        return dict(known()) if known is not None else {}

    def prepare_set(self, name: str, progress: Progress) -> None:
        """Fetch one data set, even if the task will not use it.

        Raises:
            UsageError: the task has no such data set.
            FetchError: the data set cannot be fetched.
        """
        prepare = getattr(self.module, "prepare_set", None)
        if prepare is None or name not in self.data_sets():
            known = ", ".join(self.data_sets()) or "none"
            raise UsageError(f"task {self.name} has no data set {name!r}", hint=f"its data sets: {known}")
        prepare(name, progress)

    def problems(self, split: Split) -> tuple[Problem, ...]:
        """Return all problems of a split, in a fixed order.

        Raises:
            TaskError: there are no problems, or two have the same id.
        """
        if split not in self._splits:
            problems = tuple(self.module.load(split))
            ids = {problem.id for problem in problems}
            if not problems or len(ids) < len(problems):
                raise TaskError(f"load({split!r}) gave {len(problems)} problems with {len(ids)} ids", where=self.name)
            self._splits[split] = problems
        return self._splits[split]

    def problem(self, split: Split, problem_id: str) -> Problem:
        """Return a problem by id."""
        return next(problem for problem in self.problems(split) if problem.id == problem_id)

    @cached_property
    def canaries(self) -> Canaries:
        """Strings in the task's private data that must appear nowhere else.

        Raises:
            TaskError: a canary could occur by chance.
        """
        make = getattr(self.module, "canaries", None)
        try:
            return Canaries(text for split in SPLITS for text in make(split)) if make is not None else Canaries()
        except (TypeError, ValueError) as error:
            raise TaskError(
                f"canaries(): {error}", where=str(self.path / "task.py"), hint="see docs/tasks.md"
            ) from None

    @cached_property
    def shared(self) -> Path | None:
        """Directory that every harness of this task may read; None if the task has none.

        Raises:
            TaskError: shared() returned something other than a directory.
        """
        shared = getattr(self.module, "shared", None)
        if shared is None:
            return None
        path = Path(shared())
        if not path.is_dir():
            raise TaskError(f"shared() gave {path}, which is not a directory", where=str(self.path / "task.py"))
        return path

    def report(self, split: Split, rollouts: Sequence[Rollout]) -> Report:
        """Return the task's figures and remarks on one candidate's rollouts on a split; empty if the task has none.

        Raises:
            TaskError: the report holds something other than finite numbers and texts by name.
        """
        report = getattr(self.module, "report", None)
        if report is None:
            return {}
        found = dict(report(split, rollouts))
        for name, value in found.items():
            sound = isinstance(value, str) or (isinstance(value, int | float) and math.isfinite(value))
            if not isinstance(name, str) or not sound:
                raise TaskError(f"report() gave {name!r}: {value!r}, not a number or a text", where=self.name)
        return found

    def verify(self, problem: Problem, answer: Any, lab: Lab, turns: Sequence[Turn] = ()) -> Verdict:
        """Score an answer.

        Args:
            turns: recorded turns of the rollout, for a verifier with a parameter of this name.

        Raises:
            TaskError: the verifier returned something that is not a verdict in the declared range.
        """
        verify = self.module.verify
        record = {"turns": tuple(turns)} if "turns" in inspect.signature(verify).parameters else {}
        verdict = verify(problem, answer, lab, **record)
        low, high = self.config.score_range
        if not isinstance(verdict, Verdict) or not low <= verdict.score <= high:
            raise TaskError(f"verify() gave {verdict!r}, not a Verdict within [{low}, {high}]", where=self.name)
        return verdict


def task_names() -> list[str]:
    """List the tasks that ship with the project."""
    return sorted(file.parent.name for file in _shipped().glob("*/task.toml"))


def find_task(where: str | Path) -> Path:
    """Return the directory of a task by name or path.

    Raises:
        UsageError: there is no such task.
    """
    text = str(where)
    shipped = _shipped() / text
    if "/" not in text and (shipped / "task.toml").exists():
        return shipped
    path = Path(text).expanduser()
    if (path / "task.toml").exists():
        return path.resolve()
    names = ", ".join(task_names())
    raise UsageError(
        f"unknown task {text!r}", hint=f"use one of: {names}; or the path of a directory with a task.toml in it"
    )


def _shipped() -> Path:
    import tasks

    return Path(next(iter(tasks.__path__)))


def _split_form(where: str) -> tuple[str, str]:
    """Split (task, form) at the last colon, unless it belongs to an existing path."""
    place, colon, form = where.rpartition(":")
    if not colon or "/" in form or Path(where).exists():
        return where, ""
    return place, form


def _digested_files(path: Path, plain: TaskConfig) -> dict[str, bytes]:
    harnesses = {plain.harness, *(str(table.get("harness", plain.harness)) for table in plain.forms.values())}
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file() and not _is_skipped(file.relative_to(path), harnesses)
    }


def _is_skipped(name: Path, harnesses: Collection[str]) -> bool:
    """Return True if a file is not part of the task's digest."""
    apart = name in (Path(RECORDED), Path(ARMS)) or bool({"README.md", "__pycache__"}.intersection(name.parts))
    return apart or any(map(name.is_relative_to, harnesses))
