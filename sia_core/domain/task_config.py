"""Define task.toml, in which a task declares its properties and needs."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from sia_core.domain import text_files
from sia_core.domain.backend import TRL_ALGORITHMS, Backend
from sia_core.domain.errors import TaskError, UsageError
from sia_core.domain.invalid import in_words
from sia_core.domain.json_data import Strict
from sia_core.domain.near import did_you_mean


class Plan(Strict):
    """How much to run, where the command line does not say."""

    generations: int = Field(default=4, ge=1)
    """Generations of execute, analyze, improve."""
    problems: int = Field(default=8, ge=1)
    """Training problems of a generation."""
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
    gain_per_token_doubling: float = Field(default=0.02, ge=0)
    """Share of the parent's score that a child has to gain for each doubling of its tokens."""
    tolerance: float = Field(default=0.02, ge=0)
    """Share of the best earlier node's score that a promoted child may fall short of it."""
    plateau: float = Field(default=0.02, ge=0)
    """Share of the champion's score; a possible gain below it ends the run as a plateau."""


class UpdateDefaults(Strict):
    """Hyperparameters of a weight update on this task; what is not given is the algorithm's own default."""

    algorithm: str | None = None
    """Its name (see sia_core/weights/README.md); None takes what fits the rollouts of the moment."""
    backend: Backend | None = None
    """Trainer of this algorithm: `own`, the project's step, or `trl`, for best_of_n, dpo and kto; own when None."""
    rounds: int = Field(default=4, ge=1)
    """On-policy rounds: rollouts, then steps, then a new adapter."""
    steps: int | None = Field(default=None, ge=1)
    """Optimiser steps per round."""
    learning_rate: float | None = Field(default=None, gt=0)
    rank: int = Field(default=16, ge=1)
    """LoRA rank, and alpha."""
    kl_base: float | None = Field(default=None, ge=0)
    """Weight of the KL to the bare policy."""
    gamma: float | None = Field(default=None, gt=0, le=1)
    lam: float | None = Field(default=None, ge=0, le=1)
    """Discount `gamma` and lambda of generalised advantage estimation, for ppo."""
    beta: float | None = Field(default=None, gt=0)
    """Beta of dpo and kto."""
    margin: float | None = Field(default=None, ge=0)
    threshold: float | None = None
    dtype: Literal["fp32", "bf16"] | None = None
    """Precision of the frozen base model during training; fp32 when None."""
    checkpointing: bool | None = None
    """Gradient checkpointing: less memory, more time."""
    max_gap: float | None = Field(default=None, gt=0)
    """Allowed mean difference of engine's and trainer's logprobs; 0.05 if None. Engines in bf16 may need more."""
    max_kl: float | None = Field(default=None, gt=0)
    """KL to the sampling policy at which a round ends; 0.5 if None."""
    anchors: int = Field(default=0, ge=0)
    """Training problems never trained on, but played by parent and child after each update: 0, or 2 and more."""
    anchor_tolerance: float = Field(default=0.02, ge=0)
    """Loss on the anchor problems, in units of the score, above which an update is rejected."""

    @field_validator("anchors")
    @classmethod
    def _paired(cls, count: int) -> int:
        if count == 1:
            raise ValueError("a comparison takes at least 2 anchor problems")
        return count

    @model_validator(mode="after")
    def _trainable(self) -> Self:
        if self.backend == "trl" and self.algorithm not in TRL_ALGORITHMS:
            named = "none is named" if self.algorithm is None else f"not {self.algorithm}"
            raise ValueError(f'backend "trl" is for the algorithms {", ".join(TRL_ALGORITHMS)}: {named}')
        return self

    @property
    def settings(self) -> dict[str, Any]:
        """Values that the task sets in the spec of an update, by field."""
        return self.model_dump(exclude_none=True, exclude={"anchors", "anchor_tolerance"})


class RolloutLimits(Strict):
    """Ceilings of one rollout's harness process."""

    seconds: float = Field(default=120.0, gt=0)
    verify_seconds: float = Field(default=600.0, gt=0)
    """Wall clock of one verification, in seconds; a worker that takes much longer is ended."""
    memory_mb: int = Field(default=1024, ge=64)
    disk_mb: int = Field(default=64, ge=1)
    """Size limit of the harness's private directory, in MB."""


class Resources(Strict):
    """Cluster resources that one rollout, one verification by a worker of its own, and the trainer take."""

    cpus: float = Field(default=1.0, gt=0)
    gpus: float = Field(default=0.0, ge=0)
    """GPUs of one rollout: a fraction, or whole GPUs if programs are timed; 0 hides them."""
    grade_cpus: float = Field(default=1.0, gt=0)
    grade_gpus: float = Field(default=0.0, ge=0)
    train_gpus: float = Field(default=0.0, ge=0)
    """GPUs that Ray sets aside for the trainer; 0 lets the trainer share the GPUs that it sees."""
    train_device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device of the trainer; auto takes a CUDA device if there is one."""


class SamplingDefaults(Strict):
    """How the policy samples on this task."""

    temperature: float = Field(default=1.0, gt=0)
    max_tokens: int = Field(default=256, ge=1)


class RewriteLimits(Strict):
    """How far a rewritten harness may go beyond the one the run began with."""

    budget: float = Field(default=2.0, ge=1)
    """Largest multiple of each limit of a rollout in the first harness."""
    modules: tuple[str, ...] = ()
    """Modules that a rewritten harness may declare besides the first harness's."""
    needs: tuple[str, ...] = ()
    """Entries of `needs` that a rewritten harness may declare besides the first harness's."""


class CheckLimits(Strict):
    """Limits to which `sia check` holds the task."""

    chance: float | None = None
    """Greatest mean score of null, constant, random and copied answers; the least of score_range if None."""
    gold: float | None = None
    """Least score of correct answers; more than chance if None."""
    tolerance: float = Field(default=0.0, ge=0, lt=1)
    """Relative difference that two verdicts on one answer may have, for tasks that measure time."""


class TaskConfig(Strict):
    """The contents of task.toml."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    title: str
    metric: str
    """Meaning of the score."""
    metrics: dict[str, str] = Field(default={})
    """Meaning of each metric that verdicts carry, for agents and people."""
    score_range: tuple[float, float] = (0.0, 1.0)
    """Least and greatest score of a verdict; higher is better."""
    harness: str = "harness"
    """Directory of the seed harness."""
    data: dict[str, str] = Field(default={})
    """Pinned digests and parameters of the data; part of the task's digest."""
    plan: Plan = Plan()
    update: UpdateDefaults = UpdateDefaults()
    limits: RolloutLimits = RolloutLimits()
    resources: Resources = Resources()
    sampling: SamplingDefaults = SamplingDefaults()
    rewrite: RewriteLimits = RewriteLimits()
    check: CheckLimits = CheckLimits()
    forms: dict[str, dict[str, Any]] = Field(default={})
    """Other forms of the task: name -> what differs from the tables above."""


def _with_form(table: dict[str, Any], form: str, file: Path) -> dict[str, Any]:
    forms = table.get("forms", {})
    if form not in forms:
        known = ", ".join(forms) or "none"
        raise UsageError(
            f"no form {form!r}{did_you_mean(form, forms)}",
            where=str(file),
            hint=f"its forms: {known}",
        )
    merged = dict(table)
    for name, value in forms[form].items():
        merged[name] = {**table.get(name, {}), **value} if isinstance(value, dict) else value
    return merged


def read_config(file: Path, form: str = "") -> TaskConfig:
    """Read a task.toml, in the named form if any.

    Raises:
        TaskError: the file is not a valid task.toml.
        UsageError: the task has no such form.
    """
    try:
        table = text_files.read_toml(file.read_bytes())
        return TaskConfig.model_validate(_with_form(table, form, file) if form else table)
    except text_files.EncodingError as error:
        raise TaskError(str(error), where=str(file), hint=text_files.SAVE_AS_UTF8) from None
    except text_files.TomlError as error:
        raise TaskError(str(error), where=str(file)) from None
    except ValidationError as error:
        raise TaskError(in_words(error, TaskConfig), where=str(file), hint="see docs/tasks.md") from None
