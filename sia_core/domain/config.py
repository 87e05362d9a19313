"""What a run is asked to do: frozen, validated, recorded whole, compared on resume."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from sia_core.domain.budget import Budget
from sia_core.domain.errors import UsageError

Lever = Literal["harness", "weights"]
ParentRule = Literal["best", "puct"]
Tier = Literal["strict", "landlock", "none"]
SMOKE_ROLLOUTS = 4
MINIBATCH_PROBLEMS = 6
MINIBATCH_ROLLOUTS = 2
LADDER_ROLLOUTS = 2 * (SMOKE_ROLLOUTS + MINIBATCH_PROBLEMS * MINIBATCH_ROLLOUTS)
"""Of a rewrite's validation at most; fewer where the parent's are there already."""
MAX_VALIDATIONS = 6
"""Rewrites that are validated for one decision at most."""
LEVERS: tuple[Lever, ...] = ("harness", "weights")


class RunConfig(BaseModel):
    """Everything that decides the outcome of a run, apart from the task's own files."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: str
    """Name or path of the task."""
    generations: int = Field(ge=1)
    """Generations of execute, analyze, improve."""
    levers: tuple[Lever, ...] = LEVERS
    """Levers the Feedback-Agent may pull; none is the baseline that only samples."""
    policy: str = "smollm2"
    """The language model behind the gateway."""
    agent: str = "rules"
    """The Feedback-Agent."""
    meta: bool = False
    """Whether the agent writes the first harness, in place of the task's own."""
    agent_turns: int = Field(default=30, ge=1)
    """Requests to the agent's model for one decision."""
    agent_tokens: int = Field(default=600_000, ge=1)
    """Tokens for one decision, prompts and replies of all requests together."""
    agent_dollars: float | None = Field(default=None, gt=0)
    """Dollars for one decision; None: no limit but that of tokens."""
    agent_rollouts: int = Field(default=64, ge=0)
    """Rollouts that the agent may play to try drafts, for one decision."""
    agent_seconds: float = Field(default=1200.0, ge=0)
    """Seconds of such rollouts, summed over those that run side by side."""
    agent_timeout: int = Field(default=1200, ge=1)
    """Seconds that the server of the agent's model may send nothing. Changes no result."""
    agent_minutes: float = Field(default=60.0, gt=0)
    """Agent `command:`: wall clock of one decision, all starts of the command together."""
    agent_network: tuple[str, ...] = ()
    """Agent `command:`: hosts that the command may reach; `*` is every public one."""
    agent_env: tuple[str, ...] = ()
    """Agent `command:`: names of environment variables that are passed in. Values are never recorded."""
    agent_files: tuple[str, ...] = ()
    """Agent `command:`: files below the user's home of which the command's home holds copies."""
    agent_mounts: tuple[str, ...] = ()
    """Agent `command:`: further directories that the command may read."""
    edit_scope: Literal["all", "prompts"] = "all"
    """Which files of the harness a rewrite may change."""
    max_edit_lines: int | None = Field(default=None, ge=1)
    """Lines that a rewrite may add and remove."""
    reuse_states: bool = False
    """Whether training rollouts begin from earlier answers to their problem."""
    siblings: int = Field(default=1, ge=1, le=8)
    """Children a generation proposes, each by another hypothesis."""
    approve: bool = False
    """Whether a person has to agree before a lever is pulled."""
    seed: int = 0
    """Every random choice of the run derives from it."""
    problems: int = Field(ge=1)
    """Training problems a generation executes."""
    rollouts: int = Field(ge=1)
    """Rollouts of each training problem."""
    gate_problems: int = Field(ge=2)
    """Fresh problems on which parent and child are compared."""
    gate_rollouts: int = Field(ge=1)
    """Rollouts of each gate problem, for parent and child each."""
    test_problems: int = Field(ge=2)
    """Sealed problems, scored once at the end."""
    test_rollouts: int = Field(ge=1)
    """Rollouts of each sealed problem."""
    confidence: float = Field(default=0.9, gt=0.5, lt=1)
    """Confidence of the promotion gate's one-sided bound and of every printed interval."""
    budget: Budget = Budget()
    """What it may spend; none of it by default is limited."""
    branch_from: str | None = None
    """`RUN:GENERATION` of the same task, whose candidate is the seed; None: the task's own harness."""
    gain_per_token_doubling: float = Field(default=0.02, ge=0)
    """Share of the parent's score that a child has to gain for each doubling of its tokens."""
    tolerance: float = Field(default=0.02, ge=0)
    """Share of the best earlier node's score that a promoted child may fall short of it."""
    parent: ParentRule = "best"
    """How the node to branch from is proposed: the champion, or PUCT over all nodes."""
    plateau: float = Field(default=0.02, ge=0)
    """Share of the champion's score: a gain still to be had that surely lies below it is not worth going on for."""
    until_plateau: bool = False
    """Whether the run ends at a plateau, before its generations are used up."""
    tier: Tier = "strict"
    """Sandbox tier demanded; never lowered silently."""
    threads: int = Field(default=2, ge=1)
    """CPU threads of the policy and of training; part of what makes a run repeatable."""
    batch: int = Field(default=1, ge=1)
    """Requests that a local policy samples together. Above 1 the last bits of logprobs may depend on the
    company a request was in."""
    workers: int | None = Field(default=None, ge=1)
    """Rollouts in flight; as many as the cluster has room for when None. Changes no result."""
    graders: int | None = Field(default=None, ge=1)
    """Verifications in flight, by workers of their own; None: by the worker that played. Changes no result."""

    @property
    def plays_drafts(self) -> bool:
        """The agent may play drafts before it decides."""
        return self.agent not in ("rules", "alternate") and not self.agent.startswith("recorded")


def parse_names(text: str) -> tuple[str, ...]:
    """Read names with commas between them."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def parse_levers(text: str) -> tuple[Lever, ...]:
    """Read `harness,weights`, one of them, or nothing.

    Raises:
        UsageError: an unknown lever.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in LEVERS]
    if unknown:
        raise UsageError(f"unknown lever {unknown[0]!r}", where="--levers", hint='use harness, weights, both, or ""')
    return tuple(lever for lever in LEVERS if lever in names)
