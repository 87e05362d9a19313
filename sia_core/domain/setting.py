"""Describe a configuration field for command line, Prefect's forms and printed commands.

`RunConfig` is the only list of settings. Each field has a type, a default, a range and a description, and a `Setting`
if these are not enough. The options of `sia run` and `sia arms`, the forms, the Python API, the command that a report
prints and the reference are made from the fields.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

from annotated_types import Ge, Le
from pydantic import BaseModel

SHARED = (
    *("generations", "policy", "agent", "agent_timeout", "budget", "seed", "rollouts", "problems"),
    *("sandbox", "batch", "threads", "workers"),
)
"""Settings that all runs of a comparison share."""


@dataclass(frozen=True)
class Setting:
    """Properties of a setting beyond the type, default, range and description of its field."""

    metavar: str = ""
    parse: Callable[[str], Any] | None = None
    """Parser of an option whose value is not a text, number or flag."""
    write: Callable[[Any], str] = str
    """Function that writes a value as the text of its option."""
    is_option: bool = True
    """False if the task's plan alone sets the field."""
    is_late: bool = False
    """True if the default comes from the task's plan, the policy, or the run that a branch starts from."""
    is_printed: bool = False
    """True if printed commands include the setting at its default, which another version may change."""
    can_fork: bool = True
    """True if a child run may change the setting (`sia retry --fork --set`)."""
    can_resume: bool = False
    """True if `sia resume` may change the setting."""
    title: str = ""
    """Name on Prefect's forms; empty if on no form."""
    pattern: str = ""
    """Regular expression by which a form checks the text."""
    form: Any = None
    """Type on forms, if different."""


@dataclass(frozen=True)
class Option:
    """A field as the command line and forms see it."""

    name: str
    flag: str
    kind: type
    """Type bool, int, float or str; `parse` reads a text."""
    default: Any
    """None if the default is found later, or for no limit."""
    low: float | None
    high: float | None
    description: str
    setting: Setting


def option(model: type[BaseModel], name: str) -> Option:
    """Describe one field."""
    field = model.model_fields[name]
    setting = next((one for one in field.metadata if isinstance(one, Setting)), Setting())
    given = field.annotation if field.annotation in (bool, int, float, str) else None
    number = next((one for one in (int, float) if field.annotation == one | None), str)
    default = None if setting.is_late or field.is_required() else field.default
    kind = cast("type", given or number)
    if kind is str and default is not None:
        default = setting.write(default)
    low = next((cast("float", one.ge) for one in field.metadata if isinstance(one, Ge)), None)
    high = next((cast("float", one.le) for one in field.metadata if isinstance(one, Le)), None)
    return Option(name, "--" + name.replace("_", "-"), kind, default, low, high, field.description or "", setting)


def read_text(model: type[BaseModel], name: str, text: str) -> Any:
    """Parse the text of an option.

    Raises:
        ValueError: the text is not a number where one is expected.
        UsageError: the setting's `parse` refuses the text.
    """
    one = option(model, name)
    return one.setting.parse(text) if one.setting.parse is not None else one.kind(text)


def options(model: type[BaseModel]) -> Iterator[Option]:
    """Yield every field that an option sets, in order."""
    found = (option(model, name) for name in model.model_fields)
    return (one for one in found if one.setting.is_option)
