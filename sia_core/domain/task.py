"""A task: problems and a deterministic verifier, in one directory anywhere on disk.

`task.toml` declares; `task.py` brings `load(split)` and `verify(problem, answer, lab)`, and may
bring `prepare(progress)` to fetch data, `canaries(split)` to find leaks, `gold(problem)` and `baits(problem)`
for `sia check`, `shared()` for files that every harness may read, and `report(split, rollouts)` for what it has to
say of a sealed test. `task.py` is trusted code: it runs in verifier processes and in the driver, never in the
sandbox. `Problem.private` never leaves them.

A *form* is another way to work on the same problems, with a harness, limits and plan of its own: `NAME:FORM`
lays the table [forms.FORM] of task.toml over the rest. Scores compare over forms: verifier and digest are the same.
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
"""Decisions of a run that ship with a task; no part of its digest, for they name it."""
ARMS = "arms.json"
"""Sealed scores of a comparison of arms that ship with a task; no part of its digest either."""
Progress = Callable[[str, int, int], None]
"""Called with (what, done, total) while data are prepared."""
Report = dict[str, float | str]
"""Task's report on a set of rollouts: figure or remark, by name, in the order to show them in."""


@dataclass(frozen=True)
class Problem:
    """One problem. The harness sees `public` and may hand `files` to programs it runs."""

    id: str
    split: Split
    public: Mapping[str, Any] = field(default_factory=dict)
    """JSON data."""
    files: Mapping[str, bytes] = field(default_factory=dict)
    """Public inputs too large for JSON, by file name."""
    private: Any = field(default=None, repr=False)


@dataclass(frozen=True)
class Task:
    """A loaded task. Problems are made on first use and kept."""

    path: Path
    config: TaskConfig
    digest: str
    """Over every file of the directory but the seed harnesses, README.md, recorded.json, arms.json and caches."""
    form: str = ""
    """Which of [forms] this is; the plain task when empty."""

    @classmethod
    def load(cls, where: str | Path) -> "Task":
        """Load a task by name (one that ships with the project) or by path, in the form after a colon if any.

        Raises:
            UsageError: no such task or form.
            TaskError: a task.toml or task.py that cannot be used.
        """
        place, form = _split_form(str(where))
        path = find_task(place)
        plain = read_config(path / "task.toml")
        config = read_config(path / "task.toml", form) if form else plain
        return cls(path, config, digest_files(_digested_files(path, plain)), form)

    def file_digests(self) -> dict[str, str]:
        """Digest by name of the files that the task's digest is over, as they are now."""
        files = _digested_files(self.path, read_config(self.path / "task.toml"))
        return {name: digest_bytes(data) for name, data in files.items()}

    @property
    def where(self) -> str:
        """Argument of `load` for this task: its name if it ships with the project, else its path; with the form."""
        place = self.path.name if self.path.parent == _shipped() else str(self.path)
        return f"{place}:{self.form}" if self.form else place

    @property
    def chance(self) -> float:
        """Greatest mean score of answers without insight."""
        return self.config.score_range[0] if self.config.check.chance is None else self.config.check.chance

    @property
    def name(self) -> str:
        """The task's name, as MLflow and the command line show it."""
        return self.config.name

    @property
    def sampling(self) -> Sampling:
        """How the policy samples on this task."""
        return Sampling(**self.config.sampling.model_dump())

    @property
    def description(self) -> str:
        """The text agents read."""
        file = self.path / "task.md"
        return file.read_text() if file.exists() else self.config.title

    @cached_property
    def module(self) -> ModuleType:
        """The trusted code of the task, imported from its file.

        Raises:
            TaskError: it does not import, or lacks `load` or `verify`.
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
        """Fetch what the task needs; a no-op when all is there."""
        prepare = getattr(self.module, "prepare", None)
        if prepare is not None:
            prepare(progress)

    def data_sets(self) -> dict[str, Path]:
        """Data sets the task knows of -> the file that each is kept in, there or not; empty when it does not say."""
        known: Callable[[], Mapping[str, Path]] | None = getattr(self.module, "data_sets", None)
        return dict(known()) if known is not None else {}

    def prepare_set(self, name: str, progress: Progress) -> None:
        """Fetch one data set, whether the task is going to use it or not.

        Raises:
            UsageError: the task knows no such set.
            FetchError: it cannot be had.
        """
        prepare = getattr(self.module, "prepare_set", None)
        if prepare is None or name not in self.data_sets():
            known = ", ".join(self.data_sets()) or "none"
            raise UsageError(f"task {self.name} has no data set {name!r}", hint=f"its data sets: {known}")
        prepare(name, progress)

    def problems(self, split: Split) -> tuple[Problem, ...]:
        """All problems of a split, in a fixed order.

        Raises:
            TaskError: none, or two with one id.
        """
        if split not in self._splits:
            problems = tuple(self.module.load(split))
            ids = {problem.id for problem in problems}
            if not problems or len(ids) < len(problems):
                raise TaskError(f"load({split!r}) gave {len(problems)} problems with {len(ids)} ids", where=self.name)
            self._splits[split] = problems
        return self._splits[split]

    def problem(self, split: Split, problem_id: str) -> Problem:
        """One problem by id."""
        return next(problem for problem in self.problems(split) if problem.id == problem_id)

    @cached_property
    def canaries(self) -> Canaries:
        """The strings that stand in this task's private data and must be seen nowhere else.

        Raises:
            TaskError: canaries that could be there by chance.
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
        """Directory that every harness of this task may read; None where the task has none.

        Raises:
            TaskError: what shared() gave is no directory.
        """
        shared = getattr(self.module, "shared", None)
        if shared is None:
            return None
        path = Path(shared())
        if not path.is_dir():
            raise TaskError(f"shared() gave {path}, which is no directory", where=str(self.path / "task.py"))
        return path

    def report(self, split: Split, rollouts: Sequence[Rollout]) -> Report:
        """Return the task's figures and remarks on one candidate's rollouts on a split; empty if the task has none.

        Raises:
            TaskError: something other than finite numbers and texts by name.
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
            turns: what the gateway recorded of the rollout; for a verifier that has a parameter of this name.

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
    """Names of the tasks that ship with the project."""
    return sorted(file.parent.name for file in _shipped().glob("*/task.toml"))


def find_task(where: str | Path) -> Path:
    """Directory of a task given by name or path.

    Raises:
        UsageError: there is none.
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
    """(task, form): what stands behind the last colon, unless it belongs to a path that is there."""
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
    """Return True if a file is no part of the task's digest."""
    apart = name in (Path(RECORDED), Path(ARMS)) or bool({"README.md", "__pycache__"}.intersection(name.parts))
    return apart or any(map(name.is_relative_to, harnesses))
