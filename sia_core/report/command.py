"""A run's configuration in words: to read, and to run it again."""

import shlex
from collections.abc import Iterator
from typing import Any

from sia_core.domain.config import RunConfig

OPTIONS = {
    "generations": "--generations",
    "levers": "--levers",
    "policy": "--policy",
    "agent": "--agent",
    "meta": "--meta",
    "agent_turns": "--agent-turns",
    "agent_tokens": "--agent-tokens",
    "agent_dollars": "--agent-dollars",
    "agent_timeout": "--agent-timeout",
    "agent_rollouts": "--agent-rollouts",
    "agent_seconds": "--agent-seconds",
    "agent_minutes": "--agent-minutes",
    "agent_network": "--agent-network",
    "agent_env": "--agent-env",
    "agent_files": "--agent-files",
    "agent_mounts": "--agent-mounts",
    "edit_scope": "--edit-scope",
    "max_edit_lines": "--max-edit-lines",
    "reuse_states": "--reuse-states",
    "siblings": "--siblings",
    "approve": "--approve",
    "seed": "--seed",
    "problems": "--problems",
    "rollouts": "--rollouts",
    "test_problems": "--test-problems",
    "branch_from": "--branch-from",
    "budget": "--budget",
    "parent": "--parent",
    "until_plateau": "--until-plateau",
    "tier": "--sandbox",
    "threads": "--threads",
    "batch": "--batch",
    "workers": "--workers",
    "graders": "--graders",
}
"""Field of a run's configuration -> option of `sia run`."""
BY_TASK = (
    "gate_problems",
    "gate_rollouts",
    "test_rollouts",
    "confidence",
    "gain_per_token_doubling",
    "tolerance",
    "plateau",
)
"""Fields that no option sets: they come from the task's plan, which its digest covers."""
_ALWAYS = {"generations", "policy", "agent", "seed", "problems", "rollouts", "test_problems", "threads"}
"""Given even where they are the default, which another version may have changed."""


def run_command(config: RunConfig) -> str:
    """The command that starts the same run, quoted for a shell."""
    return shlex.join(["sia", "run", config.task, *_words(config)])


def settings(config: RunConfig) -> dict[str, str]:
    """Every setting as text."""
    return {name: _shown(getattr(config, name)) for name in RunConfig.model_fields}


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ", ".join(value) or "none"
    return "none" if value is None else str(value) or "none"


def _words(config: RunConfig) -> Iterator[str]:
    for name, option in OPTIONS.items():
        value = getattr(config, name)
        if name not in _ALWAYS and value == RunConfig.model_fields[name].default:
            continue
        yield option
        if not isinstance(value, bool):  # A flag: it is given only where it is not the default.
            yield _text(value)


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(value)
    return str(value).replace(", ", ",")
