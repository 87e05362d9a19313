"""Random JSON near valid JSON: a few places of a valid value are replaced, removed, repeated, wrapped or joined."""

import copy
import json
from collections.abc import Iterator
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

FEW = settings(
    max_examples=300, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)
"""The number of cases in the default tests: the same ones in each run."""
MANY = settings(FEW, max_examples=10_000)
"""The number of cases in the slow tests."""

HOSTILE: list[Any] = [
    *(None, True, False, 0, -1, 1, 2**53, 2**63, -(2**70), 10**400, 0.5, -0.0, 1e300),
    *(float("inf"), float("-inf"), float("nan")),
    *(
        "",
        " ",
        "\n",
        "a",
        "\ud800",
        "\u0000",
        "{",
        "{}",
        "[]",
        "null",
        '"{}"',
        '{"a": NaN}',
        "x" * 5000,
        "stop",
        "length",
    ),
    *([], {}, [None], [[]], {"": None}, {"a": float("inf")}, {"type": "text", "text": None}, {"text": "t"}, [1, "a"]),
]
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
_VALUES = st.sampled_from(HOSTILE).map(copy.deepcopy) | _JSON
_DEEP = "@deep@"


@st.composite
def mutated(draw: st.DrawFn, valid: Any) -> Any:
    """Return the valid value with up to four mutations."""
    value = copy.deepcopy(valid)
    for _ in range(draw(st.integers(0, 4))):
        places = list(_places(value))
        if not places:
            return draw(_VALUES)
        inside, at = places[draw(st.integers(0, len(places) - 1))]
        _change(draw, inside, at)
    return value


def encode(value: Any) -> bytes:
    """Return JSON as a careless server writes it, with NaN, halves of surrogate pairs and endless nesting."""
    return json.dumps(value).replace(f'"{_DEEP}"', "[" * 3000 + "]" * 3000).encode()


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    todo = [value]
    while todo:
        one = todo.pop()
        if isinstance(one, dict | list):
            keys = list(one) if isinstance(one, dict) else list(range(len(one)))
            yield from ((one, key) for key in keys)
            todo += [one[key] for key in keys]


def _change(draw: st.DrawFn, inside: Any, at: Any) -> None:
    how = draw(st.sampled_from(("replace", "replace", "remove", "repeat", "wrap", "add", "deep", "dump")))
    if how == "remove":
        del inside[at]
    elif how == "wrap":
        inside[at] = [inside[at]]
    elif how == "deep":
        inside[at] = _DEEP
    elif how == "dump":
        inside[at] = json.dumps(inside[at])
    elif how == "repeat" and isinstance(inside, list):
        inside.insert(at, copy.deepcopy(inside[at]))
    elif how == "add" and isinstance(inside, dict):
        inside[draw(st.text(max_size=6))] = draw(_VALUES)
    else:
        inside[at] = draw(_VALUES)
