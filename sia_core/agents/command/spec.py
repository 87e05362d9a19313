"""Settings of a command agent: the spec `command:CMD`, and the run's settings for such an agent."""

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sia_core.domain.errors import UsageError
from sia_core.domain.jail import Jail

PREFIX = "command:"
PROMPT = "{prompt}"
"""Placeholder for the instruction in CMD; where CMD has none, the instruction is the standard input."""
_SHORTEST_SECRET = 8


@dataclass(frozen=True)
class Commanding:
    """The means of a command agent."""

    jail: Jail
    folder: Path
    """Directory of the run in which the agent's directories and log lie."""
    minutes: float
    """Wall-clock limit of one decision, all rounds together."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Environment variables passed to the command."""
    files: tuple[Path, ...] = ()
    """Files and directories of your home that are copied to the command's home."""

    def hide(self, text: str) -> str:
        """Replace the values of passed variables in the text by `[NAME]`; short values stay."""
        for name, value in self.environment.items():
            if len(value) >= _SHORTEST_SECRET:
                text = text.replace(value, f"[{name}]")
        return text


def parse_command(spec: str) -> tuple[str, ...]:
    """Split a spec's command into words.

    Raises:
        UsageError: invalid shell quoting, or no command.
    """
    text = spec.removeprefix(PREFIX)
    hint = "give one quoted word, such as --agent 'command:mytool --flag {prompt}'"
    try:
        words = tuple(shlex.split(text))
    except ValueError as error:
        raise UsageError(f"the command cannot be read: {error}", where="--agent", hint=hint) from error
    if not words:
        raise UsageError("no command is named", where="--agent", hint=hint)
    return words


def passed_in(names: tuple[str, ...]) -> dict[str, str]:
    """Read the environment variables to pass to a command.

    Raises:
        UsageError: a variable is not set.
    """
    missing = [name for name in names if not os.environ.get(name)]
    if missing:
        raise UsageError(f"{missing[0]} is not set", where="--agent-env", hint=f"export {missing[0]}=...")
    return {name: os.environ[name] for name in names}


def home_files(names: tuple[str, ...]) -> tuple[Path, ...]:
    """Resolve the files of your home to copy to the command's home.

    Raises:
        UsageError: a file does not exist, or is not below the home.
    """
    home = Path.home()
    paths = tuple(Path(name).expanduser().absolute() for name in names)
    for path in paths:
        if not path.exists() or not path.is_relative_to(home) or path == home:
            what = "is not there" if not path.exists() else f"does not lie below {home}"
            raise UsageError(
                f"{path} {what}", where="--agent-files", hint="name files of your home, as ~/.tool/auth.json"
            )
    return paths
