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
import tomllib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from sia_core.canary import Canaries
from sia_core.errors import TaskError, UsageError
from sia_core.hashing import digest_bytes, digest_files
from sia_core.lab import Lab
from sia_core.rollout import SPLITS, Rollout, Sampling, Split, Turn, Verdict

Progress = Callable[[str, int, int], None]
"""Called with (what, done, total) while data are prepared."""
Report = dict[str, float | str]
"""What a task says of a set of rollouts: figure or remark, by name, in the order to show them in."""


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


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Plan(_Table):
    """How much to run, where the command line does not say."""

    generations: int = Field(default=4, ge=1)
    """Generations of execute, analyze, improve."""
    problems: int = Field(default=8, ge=1)
    """Training problems a generation executes."""
    rollouts: int = Field(default=8, ge=1)
    """Rollouts of each training problem: the group size of a weight update."""
    gate_problems: int = Field(default=12, ge=2)
    """Fresh problems on which parent and child are compared."""
    gate_rollouts: int = Field(default=4, ge=1)
    """Rollouts of each gate problem, for parent and child each."""
    test_problems: int = Field(default=12, ge=2)
    """Sealed problems, scored once at the end."""
    test_rollouts: int = Field(default=4, ge=1)
    """Rollouts of each sealed problem."""
    price: float = Field(default=0.02, ge=0)
    """Share of the parent's score that a child has to gain for each doubling of its tokens."""
    tolerance: float = Field(default=0.02, ge=0)
    """Share of the best earlier node's score that a promoted child may fall short of it."""
    plateau: float = Field(default=0.02, ge=0)
    """Share of the champion's score below which a gain still to be had is not worth going on for."""


class UpdateDefaults(_Table):
    """Hyperparameters of a weight update on this task; what is not given is the algorithm's own default."""

    algorithm: str | None = None
    """Its name (see sia_core/weights/README.md); None takes what fits the rollouts of the moment."""
    rounds: int = Field(default=4, ge=1)
    """On-policy rounds: rollouts, then steps, then a new adapter."""
    steps: int | None = Field(default=None, ge=1)
    """Optimiser steps per round."""
    learning_rate: float | None = Field(default=None, gt=0)
    rank: int = Field(default=16, ge=1)
    """LoRA rank; alpha equals it."""
    kl_base: float | None = Field(default=None, ge=0)
    """Weight of the KL to the bare policy."""
    gamma: float | None = Field(default=None, gt=0, le=1)
    lam: float | None = Field(default=None, ge=0, le=1)
    """ppo: discount, and lambda of generalised advantage estimation."""
    beta: float | None = Field(default=None, gt=0)
    """dpo, kto."""
    margin: float | None = Field(default=None, ge=0)
    threshold: float | None = None
    dtype: Literal["fp32", "bf16"] | None = None
    """Of the frozen base model while it trains; fp32 when None."""
    checkpointing: bool | None = None
    """Gradient checkpointing: less memory, more time."""
    max_gap: float | None = Field(default=None, gt=0)
    """Mean difference that engine's and trainer's logprobs may have; 0.05 when None. Engines in bf16 may need more."""
    max_kl: float | None = Field(default=None, gt=0)
    """KL to the policy that sampled at which a round ends; 0.5 when None."""
    anchors: int = Field(default=0, ge=0)
    """Training problems set aside: never trained on, played by parent and child after each update. 0, or 2 and more."""
    anchor_tolerance: float = Field(default=0.02, ge=0)
    """Loss on them, in units of the score, above which an update is rejected."""

    @field_validator("anchors")
    @classmethod
    def _paired(cls, count: int) -> int:
        if count == 1:
            raise ValueError("a comparison takes at least 2 anchor problems")
        return count

    @property
    def settings(self) -> dict[str, Any]:
        """What is given of an update's spec, by its fields."""
        return self.model_dump(exclude_none=True, exclude={"anchors", "anchor_tolerance"})


class RolloutLimits(_Table):
    """Ceilings of one rollout's harness process."""

    seconds: float = Field(default=120.0, gt=0)
    verify_seconds: float = Field(default=600.0, gt=0)
    """Wall clock of one verification; a worker that takes much longer is ended."""
    memory_mb: int = Field(default=1024, ge=64)
    disk_mb: int = Field(default=64, ge=1)
    """Of the harness's private directory."""


class Resources(_Table):
    """What one rollout, one verification by a worker of its own, and the trainer take of the cluster."""

    cpus: float = Field(default=1.0, gt=0)
    gpus: float = Field(default=0.0, ge=0)
    """A fraction, or whole GPUs where programs are timed. 0 hides them."""
    grade_cpus: float = Field(default=1.0, gt=0)
    grade_gpus: float = Field(default=0.0, ge=0)
    train_gpus: float = Field(default=0.0, ge=0)
    """That Ray sets aside for the trainer; 0 lets it share those it sees."""
    train_device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a CUDA device where one is seen."""


class SamplingDefaults(_Table):
    """How the policy samples on this task."""

    temperature: float = Field(default=1.0, gt=0)
    max_tokens: int = Field(default=256, ge=1)


class RewriteLimits(_Table):
    """How far a rewritten harness may go beyond the one the run began with."""

    budget: float = Field(default=2.0, ge=1)
    """Each ceiling of a rollout, as a multiple of the first harness's."""
    modules: tuple[str, ...] = ()
    """Modules that it may declare besides the first harness's."""
    needs: tuple[str, ...] = ()
    """The same for `needs`."""


class CheckLimits(_Table):
    """What `sia check` is to hold the task to."""

    chance: float | None = None
    """Greatest mean score of null, constant, random and copied answers; the least of score_range when None."""
    gold: float | None = None
    """Least score of right answers; more than chance when None."""
    tolerance: float = Field(default=0.0, ge=0, lt=1)
    """Relative difference that two verdicts on one answer may have: for tasks that measure time."""


class TaskConfig(_Table):
    """The contents of task.toml."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    title: str
    metric: str
    """What the score is."""
    score_range: tuple[float, float] = (0.0, 1.0)
    """Least and greatest score a verdict may have. Higher is better."""
    harness: str = "harness"
    """Directory of the seed harness."""
    data: dict[str, str] = {}
    """Pinned digests and parameters of the data; part of the task's digest."""
    plan: Plan = Plan()
    update: UpdateDefaults = UpdateDefaults()
    limits: RolloutLimits = RolloutLimits()
    resources: Resources = Resources()
    sampling: SamplingDefaults = SamplingDefaults()
    rewrite: RewriteLimits = RewriteLimits()
    check: CheckLimits = CheckLimits()
    forms: dict[str, dict[str, Any]] = {}
    """Other forms of the task: name -> what differs from the tables above."""


@dataclass(frozen=True)
class Task:
    """A loaded task. Problems are made on first use and kept."""

    path: Path
    config: TaskConfig
    digest: str
    """Over every file of the directory but the seed harnesses, README.md and caches."""
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
        plain = _read_config(path / "task.toml")
        config = _read_config(path / "task.toml", form) if form else plain
        return cls(path, config, digest_files(_digested_files(path, plain)), form)

    def file_digests(self) -> dict[str, str]:
        """Digest by name of the files that the task's digest is over, as they are now."""
        files = _digested_files(self.path, _read_config(self.path / "task.toml"))
        return {name: digest_bytes(data) for name, data in files.items()}

    @property
    def where(self) -> str:
        """What `load` takes to find it again: its name if it ships with the project, else its path; with the form."""
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
        """What the task says of one candidate's rollouts on a split; empty where it says nothing.

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
    """Whether a file is no part of the task's digest."""
    return bool({"README.md", "__pycache__"}.intersection(name.parts)) or any(map(name.is_relative_to, harnesses))


def _with_form(table: dict[str, Any], form: str) -> dict[str, Any]:
    forms = table.get("forms", {})
    if form not in forms:
        known = ", ".join(forms) or "none"
        raise UsageError(f"no form {form!r}", where=str(table.get("name", "task")), hint=f"its forms: {known}")
    merged = dict(table)
    for name, value in forms[form].items():
        merged[name] = {**table.get(name, {}), **value} if isinstance(value, dict) else value
    return merged


def _read_config(file: Path, form: str = "") -> TaskConfig:
    try:
        table = tomllib.loads(file.read_text())
        return TaskConfig.model_validate(_with_form(table, form) if form else table)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise TaskError(f"is not TOML: {error}", where=str(file)) from error
    except ValidationError as error:
        raise TaskError(describe_invalid(error), where=str(file)) from error


def describe_invalid(error: ValidationError) -> str:
    """One line a field: where in the file, and what is wrong with it."""
    return "; ".join(f"{'.'.join(map(str, item['loc'])) or 'file'}: {item['msg']}" for item in error.errors())
