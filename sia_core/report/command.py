"""Format a run's configuration, to read or to start the same run again."""

from collections.abc import Iterator
from typing import Any

from sia_core.domain.command import command
from sia_core.domain.config import RunConfig
from sia_core.domain.setting import options


def set_by_task(config: RunConfig) -> dict[str, str]:
    """Return the settings without an option, which the task's plan sets (its digest covers them)."""
    told = {"task", *(one.name for one in options(type(config)))}
    return {name: text for name, text in settings(config).items() if name not in told}


def run_command(config: RunConfig) -> str:
    """Return the command that starts the same run, quoted for a shell."""
    return command("sia", "run", config.task, *_words(config))


def settings(config: RunConfig) -> dict[str, str]:
    """Format every setting as text."""
    return {name: _shown(getattr(config, name)) for name in RunConfig.model_fields}


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ", ".join(value) or "none"
    return "none" if value is None else str(value) or "none"


def _words(config: RunConfig) -> Iterator[str]:
    for one in options(type(config)):
        value, default = getattr(config, one.name), type(config).model_fields[one.name].default
        if not one.setting.is_printed and value == default:
            continue
        yield one.flag
        if one.kind is not bool:  # A flag is given only if it is not the default.
            yield one.setting.write(value)
