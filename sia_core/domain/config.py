"""Define the configuration of a run: frozen, validated, recorded whole, compared on resume.

To add a setting, add a field to `RunConfig` and nothing else (`sia_core.domain.setting`).
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from sia_core.domain.budget import Budget
from sia_core.domain.errors import UsageError
from sia_core.domain.near import did_you_mean
from sia_core.domain.setting import Setting

Lever = Literal["harness", "weights"]
ParentRule = Literal["best", "puct"]
Tier = Literal["strict", "landlock", "none"]
SMOKE_ROLLOUTS = 4
MINIBATCH_PROBLEMS = 6
MINIBATCH_ROLLOUTS = 2
LADDER_ROLLOUTS = 2 * (SMOKE_ROLLOUTS + MINIBATCH_PROBLEMS * MINIBATCH_ROLLOUTS)
"""Most rollouts that the validation of one rewrite takes; rollouts of the parent may exist already."""
MAX_VALIDATIONS = 6
"""Most rewrites that are validated for one decision."""
REPLY_TOKENS = 16_000
"""Tokens of one reply of an agent's model, thinking included."""
LEVERS: tuple[Lever, ...] = ("harness", "weights")


def parse_names(text: str) -> tuple[str, ...]:
    """Split comma-separated names."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def parse_levers(text: str) -> tuple[Lever, ...]:
    """Parse `harness,weights` or `both`, one of them, or nothing.

    Raises:
        UsageError: a lever is unknown.
    """
    names = LEVERS if text.strip() == "both" else parse_names(text)
    unknown = [name for name in names if name not in LEVERS]
    if unknown:
        near = did_you_mean(unknown[0], LEVERS)
        what = f"unknown lever {unknown[0]!r}{near}"
        raise UsageError(what, where="--levers", hint='use harness, weights, both, or ""')
    return tuple(lever for lever in LEVERS if lever in names)


_TASK_ALONE = Setting(is_option=False)
_NAMES = Setting(parse=parse_names, write=",".join, metavar="NAMES")


class RunConfig(BaseModel):
    """Everything that decides the outcome of a run, apart from the task's own files."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    task: Annotated[str, Setting(is_option=False, can_fork=False, title="Task")]
    """Name of a task that ships with SIA, or a path to one."""
    generations: Annotated[int, Setting(is_late=True, is_printed=True, title="Generations")] = Field(ge=1)
    """Generations of execute, analyze, improve; the task's plan if not given."""
    levers: Annotated[
        tuple[Lever, ...],
        Setting(
            parse=parse_levers,
            write=",".join,
            is_late=True,
            title="Levers",
            form=Literal["harness,weights", "harness", "weights", ""] | None,
        ),
    ] = LEVERS
    """Levers that may be pulled: harness, weights, both, or "" for none. If not given, both, or harness for a policy
    that cannot be trained."""
    policy: Annotated[
        str,
        Setting(
            is_printed=True,
            can_fork=False,
            title="Policy",
            pattern=r"^(smollm2|scripted|(local|vllm|openai|anthropic|replay):.+)$",
        ),
    ] = "smollm2"
    """Language model behind the gateway: smollm2, local:DIR, vllm:DIR[@URL], openai:MODEL[@URL], anthropic:MODEL[@URL],
    replay:FILE or scripted."""
    agent: Annotated[
        str,
        Setting(
            is_printed=True,
            title="Feedback-Agent",
            pattern=r"^(rules|alternate|recorded|(anthropic|openai|recorded|replay):.+)$",
        ),
    ] = "rules"
    """Feedback-Agent: rules, anthropic:MODEL, openai:MODEL[@URL], command:CMD, recorded, recorded:FILE or
    replay:FILE."""
    meta: Annotated[bool, Setting(can_fork=False)] = False
    """Let the agent write the first harness."""
    agent_turns: int = Field(default=30, ge=1)
    """Requests to the agent's model for one decision."""
    agent_tokens: int = Field(default=600_000, ge=1)
    """Tokens for one decision, prompts and replies together."""
    agent_reply_tokens: int = Field(default=REPLY_TOKENS, ge=256)
    """Most tokens of one reply of the agent's model, thinking included; fewer where its server has no room."""
    agent_dollars: float | None = Field(default=None, gt=0)
    """Dollars for one decision; no limit if not given."""
    agent_timeout: Annotated[int, Setting(can_resume=True, title="Agent's silence")] = Field(default=1200, ge=1)
    """Seconds of silence after which the server of the agent's model is given up."""
    agent_rollouts: int = Field(default=64, ge=0)
    """Rollouts that one decision may use to try drafts."""
    agent_seconds: float = Field(default=1200.0, ge=0)
    """Seconds of such rollouts, added up over those that run side by side."""
    agent_minutes: float = Field(default=60.0, gt=0)
    """Agent command: minutes for one decision."""
    agent_network: Annotated[tuple[str, ...], Setting(parse=parse_names, write=",".join, metavar="HOSTS")] = ()
    """Agent command: hosts that it may reach, such as api.example.com; * for all public ones."""
    agent_env: Annotated[tuple[str, ...], _NAMES] = ()
    """Agent command: environment variables that it is given, such as a key. Values are never recorded."""
    agent_files: Annotated[tuple[str, ...], Setting(parse=parse_names, write=",".join, metavar="PATHS")] = ()
    """Agent command: files of your home that are copied into its own."""
    agent_mounts: Annotated[tuple[str, ...], Setting(parse=parse_names, write=",".join, metavar="PATHS")] = ()
    """Agent command: further directories that it may read."""
    budget: Annotated[
        Budget,
        Setting(
            parse=Budget.parse,
            write=lambda budget: str(budget).replace(", ", ","),
            can_resume=True,
            title="Budget",
            pattern=r"^$|^(rollouts|tokens|dollars|gpu_hours|hours)=[0-9.]+(e[+-]?[0-9]+)?"
            r"(,(rollouts|tokens|dollars|gpu_hours|hours)=[0-9.]+(e[+-]?[0-9]+)?)*$",
        ),
    ] = Budget()
    """Most that the run may spend: rollouts=5000,tokens=2e6,dollars=5,gpu_hours=1,hours=2; any of them."""
    edit_scope: Literal["all", "prompts"] = "all"
    """Files that a rewrite may change: all, or prompts (.md, .txt)."""
    max_edit_lines: int | None = Field(default=None, ge=1)
    """Lines that a rewrite may add and remove; no limit if not given."""
    reuse_states: bool = False
    """Begin training rollouts from earlier answers to their problem."""
    siblings: Annotated[int, Setting(title="Siblings")] = Field(default=1, ge=1, le=8)
    """Children that a generation tries, each by another hypothesis."""
    approve: Annotated[bool, Setting(title="Ask first")] = False
    """Wait for your approval before a lever is pulled."""
    parent: ParentRule = "best"
    """Node to branch from: best, the champion, or puct over all nodes."""
    until_plateau: Annotated[bool, Setting(title="Until a plateau")] = False
    """Stop early once recent generations show no further gain."""
    branch_from: Annotated[str | None, Setting(metavar="RUN[:GENERATION]")] = None
    """Begin from a candidate of another run of the task, such as its champion."""
    seed: Annotated[int, Setting(is_late=True, is_printed=True, can_fork=False, title="Seed")] = 0
    """Seed of every random choice. 0 if not given; for a branch, the next after that run's."""
    rollouts: Annotated[int, Setting(is_late=True, is_printed=True, title="Rollouts")] = Field(ge=1)
    """Rollouts of each training problem; the task's plan if not given."""
    problems: Annotated[int, Setting(is_late=True, is_printed=True, title="Problems")] = Field(ge=1)
    """Training problems of a generation; the task's plan if not given."""
    test_problems: Annotated[int, Setting(is_late=True, is_printed=True, title="Sealed problems")] = Field(ge=2)
    """Sealed problems, scored once at the end; the task's plan if not given."""
    sandbox: Annotated[Tier, Setting(title="Sandbox", form=Tier)] = "strict"
    """Sandbox tier: strict, landlock (weaker) or none (no protection). Never lowered silently."""
    threads: Annotated[int, Setting(is_printed=True, title="Threads")] = Field(default=2, ge=1)
    """CPU threads of the policy and of training; part of what makes a run repeatable."""
    batch: int = Field(default=1, ge=1)
    """Requests that a local policy samples together. Above 1 the last bits of logprobs may depend on the requests that
    are sampled with one."""
    workers: Annotated[int | None, Setting(title="Workers")] = Field(default=None, ge=1)
    """Rollouts in flight; all CPUs if not given. Changes no result."""
    graders: int | None = Field(default=None, ge=1)
    """Workers that only verify; none if not given. Changes no result."""
    gate_problems: Annotated[int, _TASK_ALONE] = Field(ge=2)
    """Fresh problems on which parent and child are compared."""
    gate_rollouts: Annotated[int, _TASK_ALONE] = Field(ge=1)
    """Rollouts of each gate problem, for parent and child each."""
    test_rollouts: Annotated[int, _TASK_ALONE] = Field(ge=1)
    """Rollouts of each sealed problem."""
    confidence: Annotated[float, _TASK_ALONE] = Field(default=0.9, gt=0.5, lt=1)
    """Confidence of the promotion gate's one-sided bound and of every printed interval."""
    gain_per_token_doubling: Annotated[float, _TASK_ALONE] = Field(default=0.02, ge=0)
    """Share of the parent's score that a child has to gain for each doubling of its tokens."""
    tolerance: Annotated[float, _TASK_ALONE] = Field(default=0.02, ge=0)
    """Share of the best earlier node's score that a promoted child may fall short of it."""
    plateau: Annotated[float, _TASK_ALONE] = Field(default=0.02, ge=0)
    """Share of the champion's score; a possible gain that surely lies below it is a plateau."""

    @property
    def plays_drafts(self) -> bool:
        """True if the agent may try drafts before it decides."""
        return self.agent not in ("rules", "alternate") and not self.agent.startswith("recorded")
