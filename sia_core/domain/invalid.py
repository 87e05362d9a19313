"""Say in plain words which values of settings and files are invalid, with the nearest known name of a mistyped one."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from sia_core.domain.near import did_you_mean

_SHOWN = 80
"""Characters of a value in a message."""


def in_words(error: ValidationError, model: type[BaseModel], *, name: Callable[[str], str] = str) -> str:
    """Describe each invalid field in one line: its place, what is wrong, and what would be right.

    Args:
        model: validated model, whose field names are suggested.
        name: function that writes the name of a field, such as an option.
    """
    return "; ".join(_line(dict(item), model, name) for item in error.errors(include_url=False))


def _line(item: Mapping[str, Any], model: type[BaseModel], name: Callable[[str], str]) -> str:
    place = [str(part) for part in item["loc"]]
    shown = ".".join([name(place[0]), *place[1:]]) if place else "the whole"
    return f"{shown}: {_wrong(item, place, model)}"


def _wrong(item: Mapping[str, Any], place: list[str], model: type[BaseModel]) -> str:
    kind, limits, given = item["type"], item.get("ctx", {}), _value(item.get("input"))
    if kind == "extra_forbidden":
        return f"there is no such field{did_you_mean(place[-1], _fields(model, place[:-1]))}"
    if kind == "missing":
        return "is missing"
    if kind == "value_error":
        return str(limits.get("error", item["msg"]))
    if kind in _BOUNDS:
        sign, key = _BOUNDS[kind]
        return f"{given} is not {sign} {limits[key]}"
    if kind in ("literal_error", "enum"):
        expected = str(limits.get("expected", "known"))
        return f"{given} is not {expected}{did_you_mean(str(item.get('input')), _QUOTED.findall(expected))}"
    if kind == "string_pattern_mismatch":
        return f"{given} does not match {limits['pattern']}"
    wanted = next((words for start, words in _KINDS.items() if kind.startswith(start)), "valid here")
    return f"{given} is not {wanted}"


_QUOTED = re.compile(r"'([^']+)'")
_BOUNDS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("above", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("below", "lt"),
}
_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "finite": "a finite number",
    "bool": "true or false",
    "string": "a text",
    "tuple": "a list of names",
    "list": "a list",
    "dict": "a table",
    "model": "a table",
    "none": "absent",
}


def _value(given: Any) -> str:
    text = repr(given)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def _fields(model: type[BaseModel], path: Iterable[str]) -> list[str]:
    """Names of the fields of the table at a path; empty if there is no such table."""
    here: Any = model
    for part in path:
        field = here.model_fields.get(part) if isinstance(here, type) and issubclass(here, BaseModel) else None
        here = field.annotation if field else None
    return list(here.model_fields) if isinstance(here, type) and issubclass(here, BaseModel) else []
