"""docker-compose.yml as an engine reads it, with variables put in and nothing run."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

FILE = Path(__file__).parents[2] / "docker-compose.yml"
_VARIABLE = re.compile(r"\$\$|\$\{(?P<name>\w+)(?:(?P<how>:\?|:-)(?P<word>[^}]*))?\}")


class MissingVariableError(Exception):
    """A variable that the file demands is not set."""


def interpolate(text: str, variables: Mapping[str, str]) -> str:
    """Put the variables in, by Compose's rules for the forms that the file uses.

    Raises:
        MissingVariableError: one with `:?` is unset or empty.
    """

    def value(match: re.Match[str]) -> str:
        if match.group(0) == "$$":
            return "$"
        found = variables.get(match["name"], "")
        if not found and match["how"] == ":?":
            raise MissingVariableError(f"{match['name']}: {match['word']}")
        return found or (match["word"] if match["how"] == ":-" else "")

    return _VARIABLE.sub(value, text)


def load(variables: Mapping[str, str]) -> dict[str, Any]:
    """The whole file."""
    lines = [line for line in FILE.read_text().splitlines() if not line.lstrip().startswith("#")]
    loaded: dict[str, Any] = yaml.safe_load(interpolate("\n".join(lines), variables))
    return loaded
