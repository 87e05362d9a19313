"""Build a run's configuration from your settings, of the command line or a form, and the task's plan.

All errors that can be found without loading Prefect, Ray or MLflow are found here.
"""

from collections.abc import Mapping
from typing import Any, cast, get_args

from pydantic import ValidationError

from sia_core.agents.fit import check_fit
from sia_core.agents.prices import check_priced
from sia_core.agents.recorded import absolute
from sia_core.agents.registry import WITHOUT_MODEL, check_agent
from sia_core.domain.config import RunConfig, Tier
from sia_core.domain.errors import UsageError
from sia_core.domain.harness import Harness
from sia_core.domain.invalid import in_words
from sia_core.domain.near import did_you_mean
from sia_core.domain.patch import EditScope
from sia_core.domain.setting import option, options
from sia_core.domain.task import Task
from sia_core.loop.agent_jail import check_command
from sia_core.policy.registry import can_train, check_spec
from sia_core.search.lineage import parent_policy
from sia_core.weights.algorithms import check_algorithm

_HELP = "see: sia run --help"


def build_config(task: str, **given: Any) -> RunConfig:
    """Build the run's configuration from your settings and the task's plan.

    Args:
        task: name of a task that ships, or path of a task.
        **given: values of `RunConfig`'s fields, by name. A text is parsed as on the command line; None counts as not
            given. With `branch_from` the harness is another run's, and the field itself is set later.

    Raises:
        UsageError: an option is invalid.
        TaskError: task.toml or task.py is invalid.
        HarnessError: the harness cannot be loaded.
    """
    settings = read_settings(given)
    is_branch = settings.pop("branch_from", None) is not None
    loaded = Task.load(task)
    asked_meta = settings.get("meta", False)
    # Cheap to check here; Prefect, Ray and MLflow take seconds to load.
    if asked_meta and is_branch:
        raise UsageError("a branch already has a harness", where="--meta", hint="leave out --meta or --branch-from")
    if not is_branch and not (loaded.path / loaded.config.harness).exists():
        settings["meta"] = True
    if not settings.get("meta") and not is_branch:
        Harness.load(loaded.path / loaded.config.harness)
    _ = loaded.module
    check_algorithm(loaded.config.update.algorithm, str(loaded.path / "task.toml"))
    plan = loaded.config.plan.model_dump()
    try:
        config = RunConfig.model_validate({"task": loaded.where, **plan, **settings})
    except ValidationError as error:
        raise UsageError(in_words(error, RunConfig, name=_flag), where="settings", hint=_HELP) from None
    check_spec(config.policy)
    config = config.model_copy(update={"agent": absolute(config.agent)})
    check_fit(config, loaded)
    config = _with_levers(config, settings)
    _check(config)
    if config.meta and config.agent in WITHOUT_MODEL:
        raise UsageError(
            f"task {loaded.name} has no harness to begin with"
            if not asked_meta
            else f"{config.agent} writes no harness",
            where="--agent",
            hint="name an agent that writes one: --agent anthropic:MODEL, openai:MODEL[@URL] or command:CMD",
        )
    check_command(config)
    return config


def _with_levers(config: RunConfig, settings: Mapping[str, Any]) -> RunConfig:
    """Return the configuration with the levers that the policy has, and with one generation if there is no lever.

    Raises:
        UsageError: see `check_levers`, or several generations are asked for without a lever.
    """
    if "levers" not in settings and not can_train(config.policy):
        config = config.model_copy(update={"levers": ("harness",)})
    check_levers(config)
    if config.levers or config.generations == 1:
        return config
    if "generations" in settings:
        raise UsageError(
            "without a lever nothing changes between generations: one execute phase and the sealed test are all",
            where=f"--generations {config.generations}",
            hint="leave out --generations; for more rollouts raise --problems or --rollouts",
        )
    return config.model_copy(update={"generations": 1})


def check_levers(config: RunConfig) -> None:
    """Refuse the weights lever of a policy that has no weights to train.

    Raises:
        UsageError: the policy cannot be trained.
    """
    if "weights" in config.levers and not can_train(config.policy):
        raise UsageError(
            f"policy {config.policy} cannot be trained: it has no weights that this run could update",
            where=f"--levers {','.join(config.levers)}",
            hint="--levers harness; or a policy with weights: --policy smollm2, local:DIR or vllm:DIR[@URL]",
        )


def read_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """Parse the texts among values of `RunConfig`'s fields, and leave out None.

    Raises:
        UsageError: a setting is unknown, or a text cannot be parsed.
    """
    known = {one.name: one for one in options(RunConfig)}
    found = {name: value for name, value in given.items() if value is not None}
    for name, value in found.items():
        if name not in RunConfig.model_fields:
            what = f"there is no setting {name!r}{did_you_mean(name, known)}"
            raise UsageError(what, where="settings", hint=_HELP)
        parse = known[name].setting.parse if name in known else None
        if parse is not None and isinstance(value, str):
            found[name] = parse(value)
    parent_policy(found.get("parent", "best"))
    if (scope := found.get("edit_scope", "all")) not in get_args(EditScope):
        near = did_you_mean(str(scope), get_args(EditScope))
        raise UsageError(f"unknown scope {scope!r}{near}", where="--edit-scope", hint="use all or prompts")
    parse_tier(found.get("sandbox", "strict"))
    return found


def _flag(name: str) -> str:
    return option(RunConfig, name).flag if name in RunConfig.model_fields else name


def _check(config: RunConfig) -> None:
    """Refuse an agent or policy that is unavailable or has no known price under a budget, and an agent without work."""
    check_agent(config.agent, config.agent_dollars or config.budget.dollars)
    check_priced(config.policy, config.budget)
    if config.edit_scope == "prompts" and config.agent in WITHOUT_MODEL:
        what = f"{config.agent} moves knobs in harness.toml and writes no prompts"
        raise UsageError(what, where="--edit-scope prompts", hint="--agent anthropic:MODEL or openai:MODEL[@URL]")


def change_config(config: RunConfig, changes: Mapping[str, str]) -> RunConfig:
    """Build the configuration of a child run: its parent's with some settings changed.

    Args:
        changes: values as texts, by the name of a field of RunConfig.

    Raises:
        UsageError: a setting is unknown or cannot change within a lineage, or a value is invalid.
    """
    for name in changes:
        if name not in _CHANGEABLE:
            known = ", ".join(sorted(_CHANGEABLE))
            near = did_you_mean(name, _CHANGEABLE)
            raise UsageError(f"{name!r} cannot be changed in a child run{near}", where="--set", hint=f"one of {known}")
    values = read_settings(changes)
    try:
        changed = RunConfig.model_validate({**config.model_dump(), **values})
    except ValidationError as error:
        raise UsageError(in_words(error, RunConfig), where="--set", hint=_HELP) from None
    changed = changed.model_copy(update={"agent": absolute(changed.agent)})
    if "levers" in changes:
        check_levers(changed)
    _check(changed)
    check_fit(changed, Task.load(changed.task))
    check_command(changed)
    return changed


_CHANGEABLE = frozenset(name for name in RunConfig.model_fields if option(RunConfig, name).setting.can_fork)
"""Settings that a child run may change: not the policy, which adapters must fit, nor the seed, which deals problems."""


def parse_tier(text: str) -> Tier:
    """Parse the name of a sandbox tier.

    Raises:
        UsageError: the tier is unknown.
    """
    if text not in get_args(Tier):
        near = did_you_mean(str(text), get_args(Tier))
        raise UsageError(f"unknown sandbox tier {text!r}{near}", where="--sandbox", hint="use strict, landlock or none")
    return cast("Tier", text)
