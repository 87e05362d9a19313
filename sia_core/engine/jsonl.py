"""Strict JSON from untrusted code: bounded size and depth, finite numbers, no duplicate keys."""

import json
import math
import re
import sys
from typing import Any

MAX_DEPTH = 32
_SURROGATE = re.compile("[\ud800-\udfff]")


class BadJsonError(ValueError):
    """The bytes are not valid JSON."""


def parse(line: bytes, *, limit: int) -> Any:
    """Decode one JSON value.

    Raises:
        BadJsonError: too long, too deep, not JSON, a duplicate key, or a number that is not finite
            (checked after parsing: `1e999` is an ordinary literal to the parser).
    """
    if len(line) > limit:
        raise BadJsonError(f"longer than {limit} bytes")
    try:
        value = json.loads(line.decode(), object_pairs_hook=_unique)
    except BadJsonError:
        raise
    except (ValueError, RecursionError) as error:
        raise BadJsonError(f"not JSON: {type(error).__name__}") from error
    check(value)
    return value


def check(value: Any) -> None:
    """Refuse a parsed value that is too deep, or holds a number or text that cannot be passed on.

    Raises:
        BadJsonError: see `parse`.
    """
    _check(value, MAX_DEPTH)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        raise BadJsonError("duplicate key")
    return result


def _check(value: Any, depth: int) -> None:
    if depth == 0:
        raise BadJsonError(f"nested deeper than {MAX_DEPTH}")
    if isinstance(value, float) and not math.isfinite(value):
        raise BadJsonError("a number is not finite")
    if isinstance(value, int) and abs(value) > sys.float_info.max:
        raise BadJsonError("a number is too large")  # Arithmetic with it would overflow.
    if isinstance(value, dict):
        for key, item in value.items():
            _check_text(key)
            _check(item, depth - 1)
    elif isinstance(value, list):
        for item in value:
            _check(item, depth - 1)
    elif isinstance(value, str):
        _check_text(value)


def _check_text(text: str) -> None:
    # Lone surrogates parse, but can be neither encoded nor stored.
    if _SURROGATE.search(text):
        raise BadJsonError("text holds a lone surrogate")
