"""Read the frozen data of the loop back from JSON.

Data are written by `dataclasses.asdict`. They are read by pydantic, which checks every field against its type.
"""

from collections.abc import Hashable
from functools import cache
from typing import Any, TypeVar, cast

from pydantic import TypeAdapter

Kind = TypeVar("Kind")


def read(kind: type[Kind], data: Any) -> Kind:
    """Rebuild an object from its JSON data.

    Raises:
        ValidationError: the data are not of this kind.
    """
    found: Kind = _adapter(cast("Hashable", kind)).validate_python(data)
    return found


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
