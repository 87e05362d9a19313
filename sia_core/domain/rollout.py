"""The nouns of execution: unit, turn, trajectory, verdict, rollout.

A `Unit` says what is to be run; its key is the content address of everything that can change
the result, so a finished unit is never run twice. A `Rollout` is the one terminal record of
a unit. Turns are written by the gateway, verdicts by the verifier; the harness writes neither.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict

from sia_core.domain.hashing import digest_json
from sia_core.domain.json_data import Number

Split = Literal["train", "gate", "test"]
"""`train` feeds evidence and training, `gate` decides promotion, `test` is sealed."""
SPLITS: tuple[Split, ...] = ("train", "gate", "test")

HARNESS_FAILURES = ("error", "timeout", "memory", "disk", "output", "invalid", "budget")
"""The candidate's fault: the rollout scores 0."""
INFRASTRUCTURE_FAILURES = ("sandbox", "worker", "endpoint", "verifier")
"""Nobody's answer: retried with backoff, then left unscored, never 0."""


@dataclass(frozen=True)
class Sampling:
    """How the policy samples. Training rollouts keep the whole distribution (no top-p, no top-k)."""

    temperature: Number = 1.0
    max_tokens: int = 256


@dataclass(frozen=True)
class Unit:
    """One rollout to be run: who works on what, with which randomness."""

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
    """Key of another unit whose randomness this one shares, so that the two differ only by what their harnesses
    do. A twin is traced."""
    state: str | None = None
    """The earlier answer it begins from, as `search.states.state_of` writes it; None: from the problem alone."""

    @cached_property
    def key(self) -> str:
        """Content address of the unit."""
        fields = asdict(self)
        for name in ("twin", "state"):
            if fields[name] is None:
                del fields[name]  # The keys of units without one are older than these.
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
    """JSON, as the model wrote it."""


@dataclass(frozen=True)
class Turn:
    """One exchange with the policy as the gateway saw it.

    Attributes:
        prompt_ids: token ids given to the model, length P; None when the policy has none to give.
        output_ids: token ids it sampled, length T.
        logprobs: length T, natural logarithm under the distribution actually sampled from
            (temperature applied, restricted to `allowed`).
        allowed: length T; the token ids that position was restricted to, None where free.
            A single allowed token is forced: its logprob is 0 and it is never trained.
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
        """Prompt and output tokens; 0 when the policy counts none."""
        if self.prompt_ids is None or self.output_ids is None:
            return self.prompt_tokens + self.output_tokens
        return len(self.prompt_ids) + len(self.output_ids)


@dataclass(frozen=True)
class Verdict:
    """Verifier's judgement of one answer.

    Raises:
        ValueError: a score or metric that is not finite.
    """

    score: Number
    valid: bool = True
    metrics: Mapping[str, Number] = field(default_factory=dict)
    feedback: str = ""
    """Text the agents may read; never the expected answer."""

    def __post_init__(self) -> None:
        for name, value in {"score": self.score, **self.metrics}.items():
            if not math.isfinite(value):
                raise ValueError(f"{name} is {value}: verdicts hold finite numbers")


@dataclass(frozen=True)
class Failure:
    """Why a rollout has no answer worth verifying."""

    kind: str
    """One of HARNESS_FAILURES or INFRASTRUCTURE_FAILURES."""
    reason: str

    @property
    def infrastructure(self) -> bool:
        """True when the candidate is not to blame."""
        return self.kind in INFRASTRUCTURE_FAILURES


@dataclass(frozen=True)
class Trace:
    """Lines and knobs that a harness says it used: untrusted, and used to tell no-ops apart only."""

    lines: Mapping[str, tuple[int, ...]]
    """File -> lines run inside functions."""
    knobs: tuple[str, ...]
    """Knobs that were read."""


@dataclass(frozen=True)
class ProgramRun:
    """One program that a harness had run by `ctx.run`, as the gateway saw it; long texts are cut."""

    code: str
    status: str
    """`ok`, `error`, `timeout`, `memory`, `disk` or `output`."""
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
    """In the order in which the harness asked for them."""

    @property
    def score(self) -> float | None:
        """Verified score; 0 for a harness failure; None when unscored."""
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
