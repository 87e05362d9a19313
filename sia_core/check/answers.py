"""Worthless and hostile answers to test a verifier with, generated from the task.

- *chance*: null, constant, random, copied from public data, the right answer of another problem, and the task's own
  `baits(problem)`. Chance answers may score at most what [check] declares.
- *hostile*: NaN, infinities, a megabyte, deep nesting, duplicates, wrong shapes. Hostile answers must be invalid.

If the task offers `gold(problem)`, answers keep gold's shape with other leaves, so that they pass a first check of
their type. Random answers come from a fixed seed.
"""

import copy
import json
import random
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from sia_core.domain.hashing import derive_seed
from sia_core.domain.task import Problem

Kind = Literal["gold", "chance", "hostile"]
DEPTH: Final = 200
MEGABYTE: Final = "A" * (1 << 20)
MISSING: Final = object()
"""Sentinel for no gold answer, because None may be a gold answer."""
_LEAVES: Final = 4
"""Number of leaves of a gold answer that are spoilt one by one."""
RECORD: Final = 8
"""Number of leaves above which an answer is a table, in which one invalid entry may count as wrong."""

Path = tuple[int | str, ...]


@dataclass(frozen=True)
class Made:
    """A generated answer."""

    kind: Kind
    name: str
    answer: Any
    strict: bool = True
    """For hostile answers: if False, the answer may also be valid with a lower score than gold."""


def null_answers() -> Iterator[Made]:
    """Yield the answers of an agent that did nothing."""
    empty: dict[str, Any] = {"null": None, "empty text": "", "empty object": {}, "empty list": [], "zero": 0}
    for name, answer in empty.items():
        yield Made("chance", name, answer)


def constant_answers(gold: Any) -> Iterator[Made]:
    """Yield answers that are equal for every problem."""
    if gold is MISSING:
        for value in ("a", "yes", 1, True, [0], {"answer": 0}):
            yield Made("chance", f"constant {value!r}", value)
        return
    for number, text in ((0, "a"), (1, "0")):
        yield Made("chance", f"constant {number}, {text!r}", _filled(gold, lambda _leaf, n=number, t=text: (n, t)))


def random_answers(gold: Any, problem: Problem, count: int = 3) -> Iterator[Made]:
    """Yield random answers: gold's shape with random leaves, or random text without gold."""
    for number in range(count):
        rng = random.Random(derive_seed("sia check", problem.id, number))
        if gold is MISSING:
            yield Made("chance", f"random {number}", _random_text(rng, 16))
        else:
            made = _filled(gold, lambda leaf, r=rng: (_random_number(r, leaf), _random_text(r, len(str(leaf)))))
            yield Made("chance", f"random {number}", made)


def copied_answers(gold: Any, problem: Problem) -> Iterator[Made]:
    """Yield the public data as an answer, and gold's shape filled with each of its first values."""
    public = dict(problem.public)
    yield Made("chance", "copied public data", public)
    if gold is MISSING:
        return
    values = [value for value in public.values() if isinstance(value, str | int | float)][:8]
    for number, value in enumerate(values):
        pair = (value if isinstance(value, int | float) else 0, str(value))
        yield Made("chance", f"copied value {number}", _filled(gold, lambda _leaf, p=pair: p))


def hostile_answers(gold: Any) -> Iterator[Made]:
    """Yield answers of shapes that no task asks for, then gold with one part spoilt."""
    whole: dict[str, Any] = {
        "NaN": float("nan"),
        "infinity": float("inf"),
        "huge integer": 10**400,
        "1 MB of text": MEGABYTE,
        "deep nesting": deep(),
        "long list": [0] * 100_000,
    }
    for name, answer in whole.items():
        yield Made("hostile", name, answer)
    if gold is MISSING:
        return
    yield Made("hostile", "gold in a list", [gold])
    yield Made("hostile", "gold twice", [gold, gold])
    paths = list(leaves(gold))
    strict = len(paths) <= RECORD
    for path in paths[:_LEAVES]:
        yield from _spoilt(gold, path, strict)
    yield from _lists(gold)


def _spoilt(gold: Any, path: Path, strict: bool) -> Iterator[Made]:
    leaf, where = _at(gold, path), "".join(f"[{step!r}]" for step in path) or "all"
    values = {
        "NaN": float("nan"),
        "infinity": float("inf"),
        "1 MB of text": MEGABYTE,
        "deep nesting": deep(),
        "null": None,
        "a list": [leaf],
        "an object": {"x": leaf},
        "twice": [leaf, leaf],
    }
    for name, value in values.items():
        yield Made("hostile", f"{where} is {name}", _replaced(gold, path, value), strict)
    if path and isinstance(path[-1], str):
        yield Made("hostile", f"{where} is missing", _replaced(gold, path, MISSING), strict)


def _lists(gold: Any) -> Iterator[Made]:
    """Yield gold with each of its lists too long, too short, or with a duplicate."""
    for path in _containers(gold):
        items = _at(gold, path)
        where = "".join(f"[{step!r}]" for step in path) or "all"
        yield Made("hostile", f"{where} has every entry twice", _replaced(gold, path, items + items))
        if len(items) > 1:
            yield Made("hostile", f"{where} lacks its last entry", _replaced(gold, path, items[:-1]), strict=False)
            doubled = [*items[:-1], items[0]]
            yield Made("hostile", f"{where} repeats its first entry", _replaced(gold, path, doubled), strict=False)


def leaves(value: Any, path: Path = ()) -> Iterator[Path]:
    """Yield the paths of values that are neither object nor list."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from leaves(item, (*path, key))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from leaves(item, (*path, number))
    else:
        yield path


def _containers(value: Any, path: Path = ()) -> Iterator[Path]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _containers(item, (*path, key))
    elif isinstance(value, list) and value:
        yield path


def deep() -> Any:
    """Build DEPTH nested lists."""
    value: Any = 0
    for _ in range(DEPTH):
        value = [value]
    return value


def leaf_texts(gold: Any) -> list[str]:
    """Return the leaves of a gold answer as text; short ones are left out."""
    found = {str(_at(gold, path)).strip() for path in leaves(gold)}
    return sorted(text for text in found if len(text) >= 3 and text not in ("True", "False", "None"))


def as_text(answer: Any) -> str:
    """Write an answer as JSON, or as Python's repr if it is not JSON."""
    try:
        return json.dumps(answer, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        return repr(answer)


def _at(value: Any, path: Sequence[int | str]) -> Any:
    for step in path:
        value = value[step]
    return value


def _replaced(value: Any, path: Path, new: Any) -> Any:
    """Copy `value` with another item at `path`; MISSING removes the key."""
    if not path:
        return new
    changed = copy.copy(value)
    head, rest = path[0], path[1:]
    if not rest and new is MISSING:
        del changed[head]
    else:
        changed[head] = _replaced(changed[head], rest, new)
    return changed


def _filled(gold: Any, make: Any) -> Any:
    """Copy gold with new leaves: `make(leaf)` returns (number, text), and each leaf takes the one of its type."""
    changed = copy.deepcopy(gold)
    for path in leaves(gold):
        leaf = _at(gold, path)
        number, text = make(leaf)
        value = text if isinstance(leaf, str) else bool(number) if isinstance(leaf, bool) else number
        changed = _replaced(changed, path, value)
    return changed


def _random_text(rng: random.Random, length: int) -> str:
    return "".join(rng.choices(string.ascii_letters, k=max(1, min(length, 64))))


def _random_number(rng: random.Random, leaf: Any) -> float | int:
    size = abs(leaf) if isinstance(leaf, int | float) and abs(leaf) > 0 else 1
    drawn = rng.uniform(-2 * size, 2 * size)
    return round(drawn) if isinstance(leaf, int) else drawn
