"""Define the nouns of execution: unit, turn, trajectory, verdict, rollout.

A `Unit` says what to run. Its key is the content address of everything that can change the result, so a finished unit
never runs twice. A `Rollout` is the one terminal record of a unit. The gateway writes turns, the verifier writes
verdicts, and the harness writes neither.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict

from sia_core.domain.errors import TaskError
from sia_core.domain.hashing import digest_json
from sia_core.domain.json_data import Number

Split = Literal["train", "gate", "test"]
"""Split of the problems: `train` feeds evidence and training, `gate` decides promotion, `test` is sealed."""
SPLITS: tuple[Split, ...] = ("train", "gate", "test")

HARNESS_FAILURES = ("error", "timeout", "memory", "disk", "output", "invalid", "budget", "unverified")
"""Failures of the candidate, for which the rollout scores 0. `unverified`: the verifier raised an error on it."""
INFRASTRUCTURE_FAILURES = ("sandbox", "worker", "endpoint", "verifier")
"""Failures of the infrastructure, which are retried with backoff, then left unscored, never 0. `verifier`: the machine
failed the verifier, or the problem could not be shown."""

NO_VERDICT = ("verifier", "unverified")
"""Failures after which the verifier gave no verdict, by fault of answer or machine."""


@dataclass(frozen=True)
class Sampling:
    """Settings of the policy's sampling, from the whole distribution (no top-p, no top-k)."""

    temperature: Number = 1.0
    max_tokens: int = 256


@dataclass(frozen=True)
class Unit:
    """A rollout to run: a candidate, a problem, and a source of randomness."""

    task: str
    """Digest of the task."""
    harness: str
    """Digest of the harness."""
    policy: str
    """Digest of the policy: its spec and the files of its base model."""
    adapter: str | None
    """Digest of the LoRA adapter, None for the bare policy."""
    split: Split
    problem: str
    seed: int
    sampling: Sampling = Sampling()
    twin: str | None = None
    """Key of another unit whose randomness this one shares, so that the two differ only by their harnesses. A twin is
    traced."""
    state: str | None = None
    """Earlier answer to start from, as `search.states.state_of` writes it; None to start from the problem alone."""

    @cached_property
    def key(self) -> str:
        """Content address of the unit."""
        fields = asdict(self)
        for name in ("twin", "state"):
            if fields[name] is None:
                del fields[name]  # Keys without these fields are older than the fields.
        return digest_json(fields)

    @property
    def randomness(self) -> str:
        """Key from which every random choice of the rollout derives."""
        return self.twin or self.key


@dataclass(frozen=True)
class ToolCall:
    """A call of a tool that the policy asks the harness to make."""

    id: str
    name: str
    arguments: str
    """Arguments as JSON, as the model wrote them."""


@dataclass(frozen=True)
class Turn:
    """An exchange with the policy as the gateway saw it.

    Attributes:
        prompt_ids: token ids given to the model, length P; None if the policy reports none.
        output_ids: sampled token ids, length T.
        logprobs: length T, natural logarithm under the sampled distribution (temperature applied, restricted to
            `allowed`).
        allowed: length T, token ids to which a position was restricted, or None. A single allowed token is forced: its
            logprob is 0 and it is never trained.
    """

    kind: Literal["chat", "choose"]
    prompt: str
    output: str
    adapter: str | None
    temperature: Number
    prompt_ids: tuple[int, ...] | None = None
    output_ids: tuple[int, ...] | None = None
    logprobs: tuple[Number, ...] | None = None
    allowed: tuple[tuple[int, ...] | None, ...] | None = None
    finish: str = "stop"
    """`stop`, `length`, `tool_calls`, or what else the provider says."""
    latency_s: Number = 0.0
    tool_calls: tuple[ToolCall, ...] = ()
    prompt_tokens: int = 0
    output_tokens: int = 0
    options: tuple[str, ...] | None = None
    """Options to which a `choose` was restricted, as the harness gave them."""

    @property
    def trainable(self) -> bool:
        """True if ids and logprobs were recorded, so that a weight update may use the turn."""
        return self.prompt_ids is not None and self.output_ids is not None and self.logprobs is not None

    @property
    def tokens(self) -> int:
        """Prompt and output tokens; 0 if the policy counts none."""
        if self.prompt_ids is None or self.output_ids is None:
            return self.prompt_tokens + self.output_tokens
        return len(self.prompt_ids) + len(self.output_ids)


class NotFiniteError(TaskError, ValueError):
    """A score or metric of a verdict is NaN or infinite."""


@dataclass(frozen=True)
class Verdict:
    """Verdict of the verifier on an answer.

    Raises:
        NotFiniteError: a score or metric is not finite.
    """

    score: Number
    valid: bool = True
    metrics: Mapping[str, Number] = field(default_factory=dict)
    feedback: str = ""
    """Text that agents may read; never the expected answer."""

    def __post_init__(self) -> None:
        given: Any = self.metrics  # A task's code may give anything; `received.verdict` refuses other types.
        metrics = {f"metrics.{name}": one for name, one in given.items()} if isinstance(given, Mapping) else {}
        for name, value in {"score": self.score, **metrics}.items():
            if isinstance(value, float) and not math.isfinite(value):
                what = f"verify(): {name} is {value}: verdicts hold finite numbers"
                raise NotFiniteError(what, hint="give a finite number, or leave the metric out")


@dataclass(frozen=True)
class Failure:
    """Reason why a rollout has no verdict."""

    kind: str
    """Member of HARNESS_FAILURES or INFRASTRUCTURE_FAILURES."""
    reason: str

    @property
    def infrastructure(self) -> bool:
        """True if the candidate is not at fault."""
        return self.kind in INFRASTRUCTURE_FAILURES


@dataclass(frozen=True)
class Trace:
    """Lines and knobs that a harness reports to have used: untrusted, and only used to detect no-ops."""

    lines: Mapping[str, tuple[int, ...]]
    """Lines that ran inside functions, by file."""
    knobs: tuple[str, ...]
    """Knobs that were read."""


@dataclass(frozen=True)
class ProgramRun:
    """A program that a harness ran by `ctx.run`, as the gateway saw it; long texts are cut."""

    code: str
    status: str
    """Status: `ok`, `error`, `timeout`, `memory`, `disk` or `output`."""
    reason: str = ""
    stdout: str = ""
    stderr: str = ""


@dataclass(frozen=True)
class Rollout:
    """The terminal record of one unit: trajectory, answer, verdict, cost."""

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")  # Its parts inherit this.

    unit: Unit
    turns: tuple[Turn, ...] = ()
    answer: Any = None
    verdict: Verdict | None = None
    failure: Failure | None = None
    notes: tuple[str, ...] = ()
    """Texts that the harness gave to `ctx.note`, and the tail of its standard error: untrusted text."""
    seconds: Number = 0.0
    """Wall clock, playing and grading."""
    verify_seconds: Number = 0.0
    """Part of `seconds` that grading took."""
    trace: Trace | None = None
    """Trace of a twin that ran to its end."""
    programs: tuple[ProgramRun, ...] = ()
    """Programs in the order of the harness's requests."""

    @property
    def score(self) -> float | None:
        """Verified score: 0 for a harness failure, None if unscored."""
        if self.failure is not None and self.failure.infrastructure:
            return None
        if self.failure is not None or self.verdict is None:
            return 0.0
        return self.verdict.score

    @property
    def tokens(self) -> int:
        """Tokens over all turns."""
        return sum(turn.tokens for turn in self.turns)

    @property
    def trainable(self) -> bool:
        """True if a weight update may learn from the rollout: scored, and every turn recorded with ids."""
        return self.score is not None and bool(self.turns) and all(turn.trainable for turn in self.turns)
