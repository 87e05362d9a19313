"""Write the frozen data of the loop as JSON, and read them back.

Pydantic does both, by the types of the fields, and checks what is read. Keys stand in the order of the fields, so that
equal objects have equal JSON.
"""

import json
from base64 import b64decode, b64encode
from collections.abc import Hashable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from typing import Annotated, Any, TypeVar, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer, TypeAdapter, ValidationError

Kind = TypeVar("Kind")

Number = bool | int | float
"""A number of a record. It keeps its kind: 1 is written again as 1, not as 1.0."""
Blob = Annotated[bytes, PlainSerializer(lambda data: b64encode(data).decode()), BeforeValidator(b64decode)]
"""Bytes; Base64 in JSON."""


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


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
