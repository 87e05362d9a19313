"""Read the frozen data of the loop back from JSON.

Data are written by `dataclasses.asdict`. They are read by pydantic, which checks every field against its type.
"""

from collections.abc import Hashable, Iterator, Mapping
from functools import cache
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ConfigDict, TypeAdapter

Kind = TypeVar("Kind")


class Strict(BaseModel):
    """A table of which every key is known, and nothing changes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def read(kind: type[Kind], data: Any) -> Kind:
    """Rebuild an object from its JSON data.

    Raises:
        ValidationError: the data are not of this kind.
    """
    found: Kind = _adapter(cast("Hashable", kind)).validate_python(data)
    return found


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
