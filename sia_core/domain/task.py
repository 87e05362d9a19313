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
import sys
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any, Self, TypeVar

from sia_core.domain import received, text_files
from sia_core.domain.canary import Canaries
from sia_core.domain.errors import SiaError, TaskError, UsageError
from sia_core.domain.hashing import digest_bytes, digest_files
from sia_core.domain.lab import Lab
from sia_core.domain.near import did_you_mean
from sia_core.domain.plain_data import mapping, plain
from sia_core.domain.problem import Problem
from sia_core.domain.rollout import SPLITS, Rollout, Sampling, Split, Turn, Verdict
from sia_core.domain.task_config import TaskConfig, read_config

__all__ = ["ARMS", "RECORDED", "Problem", "Progress", "Report", "Task", "find_task", "task_names"]

Kind = TypeVar("Kind")
RECORDED = "recorded.json"
"""File of decisions that ship with a task; not part of the task's digest, which it names."""
ARMS = "arms.json"
"""File with the sealed scores of a comparison; not part of the task's digest."""
_TEXTS = (".py", ".toml", ".md")
"""Endings of files that mean the same with any line ends; data files count byte by byte."""
_RAISED = 500
"""Most characters of an error of a task's code that a message repeats."""
Progress = Callable[[str, int, int], None]
"""Function that is called with (what, done, total) while data are prepared."""
Report = dict[str, float | str]
"""Figures and remarks of a task on a set of rollouts, by name, in the order to show them."""


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
    def load(cls, where: str | Path) -> Self:
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
        """Text that agents read.

        Raises:
            TaskError: task.md is not UTF-8.
        """
        file = self.path / "task.md"
        try:
            return text_files.read(file) if file.exists() else self.config.title
        except text_files.EncodingError as error:
            raise TaskError(str(error), where=str(file), hint=text_files.SAVE_AS_UTF8) from None

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
        """Fetch what the task needs; a no-op if nothing is missing.

        Raises:
            TaskError: prepare() raised an error that is not the project's.
        """
        prepare = getattr(self.module, "prepare", None)
        if prepare is not None:
            self._called("prepare()", lambda: prepare(progress))

    def receive(self) -> None:
        """Load problems, canaries, shared directory and description, so that their errors come before any rollout.

        Raises:
            TaskError: see `problems`, `canaries`, `shared` and `description`.
        """
        for split in SPLITS:
            self.problems(split)
        _ = self.canaries, self.shared, self.description

    def data_sets(self) -> dict[str, Path]:
        """Return the file of each data set of the task, whether it exists or not; empty if the task names none."""
        known: Callable[[], Mapping[str, Path]] | None = getattr(self.module, "data_sets", None)
        return self._called("data_sets()", lambda: dict(known())) if known is not None else {}

    def prepare_set(self, name: str, progress: Progress) -> None:
        """Fetch one data set, even if the task will not use it.

        Raises:
            UsageError: the task has no such data set.
            FetchError: the data set cannot be fetched.
        """
        prepare = getattr(self.module, "prepare_set", None)
        if prepare is None or name not in self.data_sets():
            known = ", ".join(self.data_sets()) or "none"
            near = did_you_mean(name, self.data_sets())
            raise UsageError(f"task {self.name} has no data set {name!r}{near}", hint=f"its data sets: {known}")
        prepare(name, progress)

    def problems(self, split: Split) -> tuple[Problem, ...]:
        """Return all problems of a split, in a fixed order.

        Raises:
            UsageError: there is no such split.
            TaskError: there are no problems, two have the same id, or a part of one is not plain data.
        """
        if split not in SPLITS:
            known = ", ".join(SPLITS)
            raise UsageError(
                f"no split {split!r}{did_you_mean(str(split), SPLITS)}", where=self.name, hint=f"use {known}"
            )
        if split not in self._splits:
            made = self._called(f"load({split!r})", lambda: received.problems(self.module.load(split), split))
            self._splits[split] = made
        return self._splits[split]

    def gold(self, problem: Problem) -> Any:
        """Return the right answer of a problem as JSON data, None if the task offers none.

        Raises:
            TaskError: gold() raised an error, or its answer is not plain data.
        """
        gold = getattr(self.module, "gold", None)
        if gold is None:
            return None
        return self._called("gold()", lambda: plain(gold(problem), f"gold(), problem {problem.id}: the answer"))

    def baits(self, problem: Problem) -> Mapping[str, Any]:
        """Return the task's own worthless answers by name, as they are; empty if the task offers none.

        Raises:
            TaskError: baits() raised an error, or gave no dictionary.
        """
        baits = getattr(self.module, "baits", None)
        return {} if baits is None else self._called("baits()", lambda: mapping(baits(problem), "baits()"))

    def problem(self, split: Split, problem_id: str) -> Problem:
        """Return a problem by id.

        Raises:
            UsageError: there is no such problem.
        """
        for problem in self.problems(split):
            if problem.id == problem_id:
                return problem
        known = [problem.id for problem in self.problems(split)]
        what = f"no problem {problem_id!r} in split {split}{did_you_mean(problem_id, known)}"
        raise UsageError(what, where=self.name, hint=f"such as {known[0]!r}")

    @cached_property
    def canaries(self) -> Canaries:
        """Strings in the task's private data that must appear nowhere else.

        Raises:
            TaskError: a canary could occur by chance, or canaries() raised an error.
        """
        make = getattr(self.module, "canaries", None)
        if make is None:
            return Canaries()
        return self._called("canaries()", lambda: Canaries(text for split in SPLITS for text in make(split)))

    @cached_property
    def shared(self) -> Path | None:
        """Directory that every harness of this task may read; None if the task has none.

        Raises:
            TaskError: shared() returned something other than a directory.
        """
        shared = getattr(self.module, "shared", None)
        if shared is None:
            return None
        path = self._called("shared()", lambda: Path(shared()))
        if not path.is_dir():
            raise TaskError(f"shared() gave {path}, which is not a directory", where=str(self.path / "task.py"))
        return path

    def report(self, split: Split, rollouts: Sequence[Rollout]) -> Report:
        """Return the task's figures and remarks on one candidate's rollouts on a split; empty if the task has none.

        Raises:
            TaskError: report() raised an error, or holds something other than finite numbers and texts by name.
        """
        report = getattr(self.module, "report", None)
        return {} if report is None else self._called("report()", lambda: received.report(report(split, rollouts)))

    def report_or_remark(self, split: Split, rollouts: Sequence[Rollout]) -> Report:
        """Return the task's report, or a remark that says why there is none: paid rollouts must not depend on it."""
        try:
            return self.report(split, rollouts)
        except TaskError as error:
            return {"no report": f"{error.where}: {error.what}"}

    def verify(self, problem: Problem, answer: Any, lab: Lab, turns: Sequence[Turn] = ()) -> Verdict:
        """Score an answer.

        Args:
            turns: recorded turns of the rollout, for a verifier with a parameter of this name.

        Raises:
            TaskError: the verifier returned something that is not a verdict of plain data in the declared range.
        """
        verify = self.module.verify
        record = {"turns": tuple(turns)} if "turns" in inspect.signature(verify).parameters else {}
        try:
            return received.verdict(verify(problem, answer, lab, **record), self.config.score_range)
        except TaskError as error:
            error.where = error.where or f"{self.name}, problem {problem.id}"
            raise

    def _called(self, name: str, call: Callable[[], Kind]) -> Kind:
        """Call a function of the task; name function and line in the error if it fails.

        Raises:
            TaskError: the function raised an error that is not the project's, or returned unsound data.
        """
        try:
            return call()
        except TaskError as error:
            error.where = error.where or str(self.path / "task.py")
            raise
        except SiaError:
            raise
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)
            own = [frame for frame in frames if Path(frame.filename).is_relative_to(self.path)]
            where = f"{own[-1].filename}:{own[-1].lineno}" if own else str(self.path / "task.py")
            what = f"{name} raised {type(error).__name__}: {error}"[:_RAISED]
            raise TaskError(what, where=where, hint="see docs/tasks.md") from error


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
        f"unknown task {text!r}{did_you_mean(text, task_names())}",
        hint=f"use one of: {names}; or the path of a directory with a task.toml in it",
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
        str(file.relative_to(path)): _content(file)
        for file in sorted(path.rglob("*"))
        if file.is_file() and not _is_skipped(file.relative_to(path), harnesses)
    }


def _content(file: Path) -> bytes:
    """Return a file's bytes; line ends and byte order marks of code and texts change no digest."""
    data = file.read_bytes()
    return text_files.normalised(data) if file.suffix in _TEXTS else data


def _is_skipped(name: Path, harnesses: Collection[str]) -> bool:
    """Return True if a file is not part of the task's digest."""
    apart = name in (Path(RECORDED), Path(ARMS)) or bool({"README.md", "__pycache__"}.intersection(name.parts))
    return apart or any(map(name.is_relative_to, harnesses))
