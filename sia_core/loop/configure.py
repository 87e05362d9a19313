"""A run's configuration from what a person asks for, on the command line or in a form, and the task's plan.

Everything that can be told to be wrong without loading Prefect, Ray or MLflow is told here.
"""

from collections.abc import Mapping
from typing import Any, cast, get_args

from pydantic import ValidationError

from sia_core.agents.fit import check_fit
from sia_core.agents.prices import check_priced
from sia_core.agents.recorded import absolute
from sia_core.agents.registry import WITHOUT_MODEL, check_agent
from sia_core.domain.budget import Budget
from sia_core.domain.config import RunConfig, Tier, parse_levers, parse_names
from sia_core.domain.errors import UsageError
from sia_core.domain.harness import Harness
from sia_core.domain.patch import EditScope
from sia_core.domain.task import Task
from sia_core.domain.task_config import describe_invalid
from sia_core.loop.agent_jail import check_command
from sia_core.policy.registry import check_spec
from sia_core.search.lineage import parent_policy
from sia_core.weights.algorithms import check_algorithm


def build_config(
    task: str, plan: dict[str, int | None], *, levers: str, tier: str, branched: bool = False, **settings: Any
) -> RunConfig:
    """The run's configuration from the command line and the task's plan; a branched run takes its harness from another.

    Raises:
        UsageError: an option that cannot be meant.
        TaskError: a task.toml or task.py that cannot be used.
        HarnessError: a harness that cannot be loaded.
    """
    sandbox_tier, loaded = parse_tier(tier), Task.load(task)
    asked_meta = settings["meta"]
    # Cheap to check here; Prefect, Ray and MLflow take seconds to load.
    if asked_meta and branched:
        raise UsageError("a branch has its harness already", where="--meta", hint="leave out --meta or --branch-from")
    if not branched and not (loaded.path / loaded.config.harness).exists():
        settings["meta"] = True
    if not settings["meta"] and not branched:
        Harness.load(loaded.path / loaded.config.harness)
    _ = loaded.module
    check_algorithm(loaded.config.update.algorithm, str(loaded.path / "task.toml"))
    check_spec(settings["policy"])
    settings["budget"], settings["agent"] = Budget.parse(settings.get("budget", "")), absolute(settings["agent"])
    check_agent(settings["agent"], settings.get("agent_dollars") or settings["budget"].dollars)
    check_priced(settings["policy"], settings["budget"])
    parent_policy(settings.get("parent", "best"))
    if settings["meta"] and settings["agent"] in WITHOUT_MODEL:
        raise UsageError(
            f"task {loaded.name} has no harness to begin with"
            if not asked_meta
            else f"{settings['agent']} writes no harness",
            where="--agent",
            hint="name one that writes it: --agent anthropic:MODEL, openai:MODEL[@URL] or command:CMD",
        )
    check_edit_scope(settings.get("edit_scope", "all"), settings["agent"])
    defaults = loaded.config.plan.model_dump()
    asked = {name: value for name, value in plan.items() if value is not None}
    config = RunConfig(
        task=loaded.where,
        levers=parse_levers(levers),
        tier=sandbox_tier,
        **(defaults | asked),
        **settings,
    )
    check_fit(config, loaded)
    check_command(config)
    return config


def change_config(config: RunConfig, changes: Mapping[str, str]) -> RunConfig:
    """The configuration of a child run: its parent's with some settings changed.

    Args:
        changes: value, as a person writes it, by the name of a field of RunConfig.

    Raises:
        UsageError: no such setting, one that a lineage cannot go on under, or a value that it does not take.
    """
    for name in changes:
        if name not in _CHANGEABLE:
            known = ", ".join(sorted(_CHANGEABLE))
            raise UsageError(f"{name!r} cannot be changed in a child run", where="--set", hint=f"one of {known}")
    values: dict[str, Any] = dict(changes)
    if "agent" in values:
        values["agent"] = absolute(values["agent"])
    if "levers" in values:
        values["levers"] = parse_levers(values["levers"])
    if "budget" in values:
        values["budget"] = Budget.parse(values["budget"])
    for name in _NAMES & values.keys():
        values[name] = parse_names(values[name])
    try:
        changed = RunConfig.model_validate({**config.model_dump(), **values})
    except ValidationError as error:
        raise UsageError(describe_invalid(error), where="--set") from error
    check_agent(changed.agent, changed.agent_dollars or changed.budget.dollars)
    check_priced(changed.policy, changed.budget)
    check_edit_scope(changed.edit_scope, changed.agent)
    check_fit(changed, Task.load(changed.task))
    check_command(changed)
    return changed


_NAMES = frozenset({"agent_network", "agent_env", "agent_files", "agent_mounts"})
_CHANGEABLE = frozenset(RunConfig.model_fields) - {"task", "policy", "seed", "meta"}
"""Another policy does not fit the lineage's adapters; another seed deals played problems out again."""


def check_edit_scope(scope: str, agent: str) -> None:
    """Refuse a scope that there is none of, or that leaves the agent nothing to do.

    Raises:
        UsageError: either.
    """
    if scope not in get_args(EditScope):
        raise UsageError(f"unknown scope {scope!r}", where="--edit-scope", hint="use all or prompts")
    if scope == "prompts" and agent in WITHOUT_MODEL:
        what = f"{agent} moves knobs, which stand in harness.toml, and writes no prompts"
        raise UsageError(what, where="--edit-scope prompts", hint="--agent anthropic:MODEL or openai:MODEL[@URL]")


def parse_tier(text: str) -> Tier:
    """The sandbox tier of that name.

    Raises:
        UsageError: there is none.
    """
    if text not in get_args(Tier):
        raise UsageError(f"unknown sandbox tier {text!r}", where="--sandbox", hint="use strict, landlock or none")
    return cast("Tier", text)
