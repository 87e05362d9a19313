"""A task: problems and a deterministic verifier, in one directory anywhere on disk.

`task.toml` declares; `task.py` brings `load(split)` and `verify(problem, answer, lab)`, and may
bring `prepare(progress)` to fetch data and `canaries(split)` to find leaks. `task.py` is trusted
code: it runs in verifier processes and in the driver, never in the sandbox. `Problem.private`
never leaves them.
"""

import importlib.util
import sys
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from sia_core.canary import Canaries
from sia_core.errors import TaskError, UsageError
from sia_core.hashing import digest_files
from sia_core.lab import Lab
from sia_core.rollout import SPLITS, Sampling, Split, Verdict

Progress = Callable[[str, int, int], None]
"""Called with (what, done, total) while data are prepared."""


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


@dataclass(frozen=True)
class Task:
    """A loaded task. Problems are made on first use and kept."""

    path: Path
    config: TaskConfig
    digest: str
    """Over every file of the directory but the seed harness, README.md and caches."""

    @classmethod
    def load(cls, where: str | Path) -> "Task":
        """Load a task by name (one that ships with the project) or by path.

        Raises:
            UsageError: no such task.
            TaskError: a task.toml or task.py that cannot be used.
        """
        path = find_task(where)
        config = _read_config(path / "task.toml")
        skipped = {config.harness, "README.md", "__pycache__"}
        files = {
            str(file.relative_to(path)): file.read_bytes()
            for file in sorted(path.rglob("*"))
            if file.is_file() and not skipped.intersection(file.relative_to(path).parts)
        }
        return cls(path, config, digest_files(files))

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

    def verify(self, problem: Problem, answer: Any, lab: Lab) -> Verdict:
        """Score an answer.

        Raises:
            TaskError: the verifier returned something that is not a verdict in the declared range.
        """
        verdict = self.module.verify(problem, answer, lab)
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


def _read_config(file: Path) -> TaskConfig:
    try:
        return TaskConfig.model_validate(tomllib.loads(file.read_text()))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise TaskError(f"is not TOML: {error}", where=str(file)) from error
    except ValidationError as error:
        raise TaskError(describe_invalid(error), where=str(file)) from error


def describe_invalid(error: ValidationError) -> str:
    """One line a field: where in the file, and what is wrong with it."""
    return "; ".join(f"{'.'.join(map(str, item['loc'])) or 'file'}: {item['msg']}" for item in error.errors())
