"""Write the frozen data of the loop as JSON, and read them back.

Pydantic does both, by the types of the fields, and checks what is read. Keys stand in the order of the fields, so that
equal objects have equal JSON.
"""

import json
import math
import re
from base64 import b64decode, b64encode
from collections.abc import Hashable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from typing import Annotated, Any, TypeVar, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer, TypeAdapter, ValidationError

Kind = TypeVar("Kind")

Number = bool | int | float
"""A number of a record. It keeps its kind: 1 is written again as 1, not as 1.0."""
LARGEST = 2**63 - 1
"""Largest whole number that every store of a record holds."""
DEEPEST = 64
"""Levels of nested JSON that a record may hold."""
_SURROGATE = re.compile("[\ud800-\udfff]")
Blob = Annotated[bytes, PlainSerializer(lambda data: b64encode(data).decode()), BeforeValidator(b64decode)]
"""Bytes; Base64 in JSON."""


class UnfitError(ValueError):
    """JSON that no record can hold; the message says where and why."""


class Strict(BaseModel):
    """A table of which every key is known, and nothing changes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def read(kind: type[Kind], data: Any) -> Kind:
    """Rebuild an object from its JSON data.

    Raises:
        ValidationError: the data do not fit the type.
    """
    found: Kind = _adapter(cast("Hashable", kind)).validate_python(data)
    return found


def write(value: Any) -> Any:
    """Return the JSON data of an object; `read` is the inverse."""
    return _adapter(cast("Hashable", type(value))).dump_python(value, warnings=False)


def loads(kind: type[Kind], text: str) -> Kind:
    """Rebuild an object from its JSON.

    Raises:
        ValueError: the text is not JSON, or not of this kind.
    """
    with suppress(ValidationError):
        found: Kind = _adapter(cast("Hashable", kind)).validate_json(text)
        return found
    return read(kind, json.loads(text))  # Pydantic's parser is faster, but refuses lone surrogates.


def dumps(value: Any) -> str:
    """Return the JSON of an object; `loads` is the inverse."""
    return json.dumps(write(value))


def parse(text: str | bytes) -> Any:
    """Parse the JSON of a model or of another program.

    Raises:
        UnfitError: no record can hold the value (see `flaw`).
        ValueError: the text is not JSON.
    """
    try:
        found = json.loads(text)
    except RecursionError:
        raise UnfitError(f"nested deeper than {DEEPEST} levels") from None
    if fault := flaw(found):
        raise UnfitError(fault)
    return found


def flaw(value: Any) -> str:
    """Describe the first place of JSON data that no record can hold, such as `update.rank: nan is not a finite number`.

    A record holds finite numbers, whole numbers of 64 bits, texts of Unicode, and DEEPEST levels. Python's own parser
    takes more: `NaN`, `Infinity`, `1e999`, numbers of a thousand digits, and halves of surrogate pairs.
    """
    return _flaw(value, "", DEEPEST)


def whole_texts(value: Any) -> Any:
    """Return JSON data with each half of a surrogate pair replaced by U+FFFD, as in a reply cut within a character."""
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value)
    if isinstance(value, list):
        return [whole_texts(one) for one in value]
    if isinstance(value, dict):
        return {whole_texts(key): whole_texts(one) for key, one in value.items()}
    return value


def texts(value: Any) -> Iterator[str]:
    """Every string in nested containers."""
    todo = [value]
    while todo:
        one = todo.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, Mapping):
            todo += [*one.keys(), *one.values()]
        elif isinstance(one, list | tuple):
            todo += one


def _flaw(value: Any, place: str, depth: int) -> str:
    where = f"{place}: " if place else ""
    if not depth:
        return f"{where}nested deeper than {DEEPEST} levels"
    if isinstance(value, float) and not math.isfinite(value):
        return f"{where}{value} is not a finite number"
    if isinstance(value, int) and not -LARGEST <= value <= LARGEST:
        return f"{where}a number of more than 64 bits"
    if isinstance(value, str) and _SURROGATE.search(value):
        return f"{where}a text with half of a surrogate pair, which is not Unicode"
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, Mapping):
        if any(isinstance(key, str) and _SURROGATE.search(key) for key in value):
            return f"{where}a name with half of a surrogate pair, which is not Unicode"
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    faults = (_flaw(one, f"{place}.{key}".lstrip("."), depth - 1) for key, one in items)
    return next(filter(None, faults), "")


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
