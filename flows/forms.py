"""What is asked in the Prefect UI before a deployment runs: pydantic models whose JSON schemas make the forms.

The server checks values against the schema (patterns, ranges, choices), so that most mistakes are told in the form;
what only the task's files can tell (`configure.build_config`) is told by the run, before anything is spent.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from sia_core.domain.config import RunConfig, Tier
from sia_core.loop.configure import build_config
from sia_core.search.arms import ArmsPlan, plan_arms

_TASK = Field(title="Task", min_length=1, description="Name of a task that ships with SIA, or a path on the worker.")
_POLICY = Field(
    default="smollm2",
    title="Policy",
    pattern=r"^(smollm2|scripted|(local|vllm|openai|anthropic|replay):.+)$",
    description="smollm2, local:DIR, vllm:DIR[@URL], openai:MODEL[@URL], anthropic:MODEL[@URL], replay:FILE, scripted.",
)
_AGENT = Field(
    default="rules",
    title="Feedback-Agent",
    pattern=r"^(rules|alternate|recorded|(anthropic|openai|recorded|replay):.+)$",
    description="rules, anthropic:MODEL, openai:MODEL[@URL], recorded, recorded:FILE or replay:FILE.",
)
_AGENT_TIMEOUT = Field(
    default=1200,
    ge=1,
    title="Agent's silence",
    description="Seconds of silence after which the server of the agent's model is given up.",
)
_BUDGET = Field(
    default="",
    title="Budget",
    pattern=r"^$|^(rollouts|tokens|dollars|gpu_hours|hours)=[0-9.]+(e[+-]?[0-9]+)?"
    r"(,(rollouts|tokens|dollars|gpu_hours|hours)=[0-9.]+(e[+-]?[0-9]+)?)*$",
    description="What may be spent: rollouts=5000,tokens=2e6,dollars=5,gpu_hours=1,hours=2; any of them, or nothing.",
)
_GENERATIONS = Field(default=None, ge=1, title="Generations", description="The task's plan when left out.")
_RUN = Field(title="Run", min_length=1, description="Name of a run, or how it begins; see sia status.")


class EvolveForm(BaseModel):
    """A new run of a task."""

    model_config = ConfigDict(extra="forbid", title="Run")

    task: str = _TASK
    generations: int | None = _GENERATIONS
    levers: Literal["harness,weights", "harness", "weights", ""] = Field(
        default="harness,weights", title="Levers", description="Which levers may be pulled; none only samples."
    )
    policy: str = _POLICY
    agent: str = _AGENT
    agent_timeout: int = _AGENT_TIMEOUT
    budget: str = _BUDGET
    seed: int = Field(default=0, title="Seed", description="Every random choice derives from it.")
    siblings: int = Field(default=1, ge=1, le=8, title="Siblings", description="Children a generation tries.")
    approve: bool = Field(default=False, title="Ask first", description="Wait for a person's word before a lever.")
    until_plateau: bool = Field(
        default=False, title="Until a plateau", description="End before the generations do, once no gain is to be had."
    )
    rollouts: int | None = Field(default=None, ge=1, title="Rollouts", description="Of each training problem.")
    problems: int | None = Field(default=None, ge=1, title="Problems", description="Of a generation.")
    test_problems: int | None = Field(default=None, ge=2, title="Sealed problems", description="Scored at the end.")
    sandbox: Tier = Field(default="strict", title="Sandbox", description="landlock is weaker; none protects nothing.")
    threads: int = Field(default=2, ge=1, title="Threads", description="CPU threads of policy and training.")
    workers: int | None = Field(
        default=None, ge=1, title="Workers", description="Rollouts in flight; all CPUs if none."
    )

    def config(self) -> RunConfig:
        """The run's configuration.

        Raises:
            SiaError: as `build_config`.
        """
        return build_config(
            self.task,
            {
                "generations": self.generations,
                "rollouts": self.rollouts,
                "problems": self.problems,
                "test_problems": self.test_problems,
            },
            levers=self.levers,
            tier=self.sandbox,
            meta=False,
            **self.model_dump(
                include={"policy", "agent", "budget", "seed", "siblings", "approve", "until_plateau"}
                | {"threads", "workers", "agent_timeout"}
            ),
        )


class GenerationForm(BaseModel):
    """Generations that a run is to make, again or in addition."""

    model_config = ConfigDict(extra="forbid", title="Generation")

    run: str = _RUN
    generation: int = Field(
        ge=1,
        title="Generation",
        description="One it has made: that and later ones are made again. A later one: the run is extended to it.",
    )
    fork: bool = Field(
        default=False, title="Fork", description="Leave the run as it is; go on in a child run, with what has changed."
    )


class ReportForm(BaseModel):
    """A run whose report is made anew."""

    model_config = ConfigDict(extra="forbid", title="Report")

    run: str = _RUN


class ArmsForm(BaseModel):
    """A comparison of arms."""

    model_config = ConfigDict(extra="forbid", title="Comparison")

    task: str = _TASK
    arms: str = Field(
        default="",
        title="Arms",
        pattern=r"^$|^(harness|weights|alternate|rules|agent|choice|best-of-n)"
        r"(,(harness|weights|alternate|rules|agent|choice|best-of-n))*$",
        description="Some of harness,weights,alternate,rules,agent,best-of-n; all when left out.",
    )
    seeds: int = Field(default=3, ge=1, title="Seeds", description="Runs of each arm, with a seed each.")
    seed: int = Field(default=0, title="First seed")
    generations: int | None = _GENERATIONS
    policy: str = _POLICY
    agent: str = _AGENT
    agent_timeout: int = _AGENT_TIMEOUT
    budget: str = _BUDGET
    sandbox: Tier = Field(default="strict", title="Sandbox")
    threads: int = Field(default=2, ge=1, title="Threads", description="CPU threads of policy and training.")

    def plan(self) -> ArmsPlan:
        """What is compared.

        Raises:
            SiaError: as `build_config` and `plan_arms`.
        """
        config = build_config(
            self.task,
            {"generations": self.generations},
            levers="harness,weights",
            tier=self.sandbox,
            meta=False,
            **self.model_dump(include={"policy", "agent", "agent_timeout", "budget", "seed", "threads"}),
        )
        return plan_arms(config, [name.strip() for name in self.arms.split(",") if name.strip()], self.seeds)
