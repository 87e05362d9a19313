"""The places where people meet a field of the configuration: command line, Prefect's forms, printed commands.

`RunConfig` is the only list of settings. Each of its fields has a type, a default, a range and a description, and where
those are not enough a `Setting`. The options of `sia run` and `sia arms`, the forms, the Python API, the command that a
report prints and the reference are made from it.
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
"""Settings that all runs of a comparison share. The arms differ in the others."""


@dataclass(frozen=True)
class Setting:
    """Properties of a setting beyond the type, default, range and description of its field."""

    metavar: str = ""
    parse: Callable[[str], Any] | None = None
    """Reads the text of an option, where the value is no text, number or flag."""
    write: Callable[[Any], str] = str
    """Writes a value as the text of its option."""
    is_option: bool = True
    """False: the task's plan alone sets the field."""
    is_late: bool = False
    """The default is found later, in the task's plan or in the run that a branch begins from."""
    is_printed: bool = False
    """Printed commands give it even at its default, which another version may change."""
    can_fork: bool = True
    """A child run may change it (`sia retry --fork --set`)."""
    can_resume: bool = False
    """`sia resume` may change it."""
    title: str = ""
    """Its name on Prefect's forms; not on a form if empty."""
    pattern: str = ""
    """Regular expression that a form checks its text against."""
    form: Any = None
    """Its type on forms, where that differs."""


@dataclass(frozen=True)
class Option:
    """A field as the command line and forms see it."""

    name: str
    flag: str
    kind: type
    """bool, int, float or str; a text is read by `parse`."""
    default: Any
    """None: found later, or no limit."""
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
    """Read the text of an option.

    Raises:
        ValueError: not a number where one is expected.
        UsageError: whatever the setting's `parse` refuses.
    """
    one = option(model, name)
    return one.setting.parse(text) if one.setting.parse is not None else one.kind(text)


def options(model: type[BaseModel]) -> Iterator[Option]:
    """Every field that an option sets, in order."""
    found = (option(model, name) for name in model.model_fields)
    return (one for one in found if one.setting.is_option)
