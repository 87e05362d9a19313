"""Read the frozen data of the loop from JSON written by `dataclasses.asdict`.

Pydantic checks every field against its type.
"""

from collections.abc import Hashable
from functools import cache
from typing import Any, TypeVar, cast

from pydantic import TypeAdapter

Kind = TypeVar("Kind")


def read(kind: type[Kind], data: Any) -> Kind:
    """Rebuild an object from its JSON data.

    Raises:
        ValidationError: the data do not fit the type.
    """
    found: Kind = _adapter(cast("Hashable", kind)).validate_python(data)
    return found


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
