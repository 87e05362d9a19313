"""Convert values of a task's code to plain data, or refuse them by the name of their field.

Tasks compute with numpy, pandas and torch, whose types neither JSON nor the record holds. A scalar of such a library
becomes the Python number or text that equals it, and an array becomes a list. A value without an equal (NaN, a set,
bytes, a date) is refused: the error names the field and says what to give instead. Plain data are returned as they
are. Libraries are recognised by the attributes of their values, so that this module imports none of them.
"""

import datetime as dt
import math
import operator
import re
from collections.abc import Collection, Mapping
from itertools import pairwise
from typing import Any, NoReturn

from sia_core.domain.errors import TaskError

DEPTH = 100
"""Most containers that may lie within one another."""
_INTEGER_BITS = 14_000
"""Bits of an integer that every JSON parser of Python takes: about 4,200 digits."""
_PLAIN = (bool, int, float, str, type(None))
_SURROGATE = re.compile("[\ud800-\udfff]")
_MISSING = {"NAType": "pandas.NA", "NaTType": "pandas.NaT"}
_ADVICE: tuple[tuple[tuple[type, ...], str, str], ...] = (
    ((set, frozenset), "a set, which has no order", "give a list: sorted(...)"),
    ((bytes, bytearray, memoryview), "bytes, which JSON does not have", "decode them, or give them in Problem.files"),
    ((dt.date, dt.time, dt.timedelta), "a date or time", "give a text or a number: .isoformat()"),
)
_GENERAL = "give plain data: None, booleans, finite numbers, texts, lists and dictionaries"


def plain(value: Any, field: str, depth: int = DEPTH) -> Any:
    """Return JSON data equal to a value; tuples may stay.

    Raises:
        TaskError: a part of the value has no equal in JSON; the error names it, below `field`.
    """
    value = scalar(value)
    if isinstance(value, _PLAIN):
        return _sound(value, field)
    if _is_array(value):
        value = value.tolist()
    if depth == 0:
        refuse(field, f"nested deeper than {DEPTH} containers, or holds itself", "give flat data")
    if isinstance(value, Mapping):
        return _mapping(value, field, depth)
    if not isinstance(value, list | tuple):
        refuse(field, *_fault(value))
    items = [plain(item, f"{field}[{number}]", depth - 1) for number, item in enumerate(value)]
    if len(items) == len(value) and all(map(operator.is_, items, value)):
        return value
    return items if isinstance(value, list) else tuple(items)


def number(value: Any, field: str) -> bool | int | float:
    """Return the finite number equal to a value.

    Raises:
        TaskError: there is none.
    """
    found = scalar(value)
    if not isinstance(found, bool | int | float):
        refuse(field, _fault(found)[0], "give a finite number")
    return _finite(found, field)


def flag(value: Any, field: str) -> bool:
    """Return True or False for a boolean, 0 or 1.

    Raises:
        TaskError: the value is something else.
    """
    found = scalar(value)
    if not isinstance(found, bool | int | float) or found not in (0, 1):
        refuse(field, _fault(found)[0], "give True or False")
    return bool(found)


def text(value: Any, field: str) -> str:
    """Return the text equal to a value.

    Raises:
        TaskError: the value is not a text, or holds a lone surrogate.
    """
    found = scalar(value)
    if not isinstance(found, str):
        refuse(field, _fault(found)[0], "give a text")
    if _SURROGATE.search(found):
        refuse(field, f"a text with a lone surrogate, {found[:60]!r}", "decode bytes with errors='replace'")
    return found


def name(value: Any, field: str) -> str:
    """Return the name equal to a text, or an integer as decimal digits.

    Raises:
        TaskError: the value is neither, or an empty text.
    """
    found = scalar(value)
    if isinstance(found, int) and not isinstance(found, bool):
        return str(found)
    if isinstance(found, str) and not found:
        refuse(field, "empty", "give a text that identifies it")
    return text(found, field)


def mapping(value: Any, field: str) -> Mapping[Any, Any]:
    """Return the value if it is a mapping.

    Raises:
        TaskError: it is not.
    """
    if not isinstance(value, Mapping):
        refuse(field, _fault(value)[0], "give a dictionary")
    return value


def unique(keys: Collection[Any], field: str) -> None:
    """Refuse names of which two are equal once they are texts, such as 1 and "1".

    Raises:
        TaskError: two names are equal.
    """
    texts = sorted(map(str, keys))
    twice = next((one for one, other in pairwise(texts) if one == other), None)
    if twice is not None:
        refuse(field, f"a dictionary with two keys that read {twice!r}", "give keys that differ as texts")


def scalar(value: Any) -> Any:
    """Return the Python value equal to a number or text of a library; other values as they are."""
    if type(value) in _PLAIN:
        return value
    if getattr(value, "shape", None) == () and callable(getattr(value, "item", None)):
        kind = getattr(value.dtype, "kind", "") if hasattr(value, "dtype") else ""
        if kind in ("m", "M"):
            return value  # Its item may be a bare number of nanoseconds.
        item = value.item()
        return _shortened(item) if kind == "f" else item
    for base in (int, float):
        if isinstance(value, base):
            return base(value)
    return str.__str__(value) if isinstance(value, str) else value


def refuse(field: str, what: str, hint: str) -> NoReturn:
    """Raise the TaskError of a field."""
    raise TaskError(f"{field} is {what}", hint=hint)


def _shortened(item: Any) -> Any:
    """Return the float equal to a longer floating-point number, if there is one."""
    if isinstance(item, float):
        return item
    short = float(item)
    return short if short == item or math.isnan(short) else item


def _is_array(value: Any) -> bool:
    """Recognise arrays and tensors, but not tables with an index of their own."""
    shaped = isinstance(getattr(value, "shape", None), tuple) and callable(getattr(value, "tolist", None))
    kind = getattr(getattr(value, "dtype", None), "kind", "f")
    return shaped and not hasattr(value, "index") and kind in "biufUO"


def _sound(value: Any, field: str) -> Any:
    if isinstance(value, str):
        return text(value, field)
    return value if value is None else _finite(value, field)


def _finite(value: bool | float, field: str) -> bool | int | float:
    if isinstance(value, float) and not math.isfinite(value):
        refuse(field, _fault(value)[0], "JSON and verdicts hold finite numbers: give one, or leave the field out")
    if isinstance(value, int) and value.bit_length() > _INTEGER_BITS:
        refuse(field, f"an integer of {value.bit_length()} bits", "give it as a text")
    return value


def _mapping(value: Mapping[Any, Any], field: str, depth: int) -> Mapping[Any, Any]:
    keys = [scalar(key) for key in value]
    for key in keys:
        if isinstance(key, str):
            text(key, f"a key of {field}")
        elif isinstance(key, int | float):
            _finite(key, f"a key of {field}")
        else:
            refuse(f"the key {key!r} of {field}"[:200], _fault(key)[0], "give keys that are texts")
    unique(keys, field)
    if len({isinstance(key, str) for key in keys}) > 1:
        refuse(field, "a dictionary with texts and numbers as keys", "give keys that are texts")
    items = [plain(item, f"{field}.{key}", depth - 1) for key, item in zip(keys, value.values(), strict=True)]
    same = all(map(operator.is_, keys, value)) and all(map(operator.is_, items, value.values()))
    return value if same and isinstance(value, dict) else dict(zip(keys, items, strict=True))


def _fault(value: Any) -> tuple[str, str]:
    """Say what a refused value is, and what to give instead."""
    if isinstance(value, float) and not math.isfinite(value):
        return ("NaN" if math.isnan(value) else "infinite"), _GENERAL
    if (missing := _MISSING.get(type(value).__name__)) is not None:
        return f"{missing}, a missing value", "give None, or leave the field out"
    for kinds, what, hint in _ADVICE:
        if isinstance(value, kinds):
            return what, hint
    if isinstance(value, _PLAIN):
        return f"{value!r}"[:80], _GENERAL
    hint = "give a list or dictionary: .tolist(), .to_dict()" if hasattr(value, "dtype") else _GENERAL
    return f"of type {type(value).__qualname__}", hint
