"""Receive problems and verdicts from a task's code: the one door through which they enter.

Numbers, texts and tables become plain data here (`plain_data`), so that no later step meets a type of a library. An
error names the function, the problem and the field.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import PurePath, PurePosixPath
from typing import Any

from sia_core.domain import plain_data
from sia_core.domain.errors import TaskError
from sia_core.domain.plain_data import refuse
from sia_core.domain.problem import Problem
from sia_core.domain.rollout import Split, Verdict

Read = Callable[[Any, str], Any]
"""Function that converts a value, or refuses it by the field's name."""


def problems(given: Any, split: Split) -> tuple[Problem, ...]:
    """Return the problems that load() gave, as plain data but for `private`.

    Raises:
        TaskError: there are none, two share an id, or a part is not plain.
    """
    place = f"load({split!r})"
    if not isinstance(given, Iterable) or isinstance(given, str | bytes | Mapping):
        raise TaskError(f"{place} gave {_kind(given)}, not problems", hint="return a list of Problem")
    found = tuple(_problem(one, f"{place}[{number}]", place) for number, one in enumerate(given))
    ids = {problem.id for problem in found}
    if not found or len(ids) < len(found):
        raise TaskError(f"{place} gave {len(found)} problems with {len(ids)} ids", hint="give each problem its own id")
    return found


def verdict(given: Any, score_range: tuple[float, float]) -> Verdict:
    """Return the verdict that verify() gave, as plain data.

    Raises:
        TaskError: it is no verdict, a part is not plain, or the score is out of range.
    """
    low, high = score_range
    if not isinstance(given, Verdict):
        what = f"verify() gave {_kind(given)}, not a Verdict within [{low:g}, {high:g}]"
        raise TaskError(what, hint="return Verdict(score, valid, metrics, feedback)")
    score = plain_data.number(given.score, "verify(): score")
    if not low <= score <= high:
        what = f"verify() gave the score {score!r}, not a Verdict within [{low:g}, {high:g}]"
        raise TaskError(what, hint="return a score within score_range, or widen score_range in task.toml")
    metrics = plain_data.mapping(given.metrics, "verify(): metrics")
    plain_data.unique(metrics, "verify(): metrics")
    return replace(
        given,
        score=score,
        valid=plain_data.flag(given.valid, "verify(): valid"),
        metrics={
            plain_data.name(name, "verify(): a name in metrics"): plain_data.number(value, f"verify(): metrics.{name}")
            for name, value in metrics.items()
        },
        feedback=plain_data.text(given.feedback, "verify(): feedback"),
    )


def report(given: Any) -> dict[str, float | str]:
    """Return the figures and remarks that report() gave.

    Raises:
        TaskError: they are not finite numbers and texts by name.
    """
    found: dict[str, float | str] = {}
    for key, value in plain_data.mapping(given, "report()").items():
        name, part = plain_data.name(key, "report(): a name"), plain_data.scalar(value)
        try:
            one = plain_data.text(part, "") if isinstance(part, str) else plain_data.number(part, "")
        except TaskError as error:
            raise TaskError(f"report() gave {name!r}: {value!r}, not a number or a text", hint=error.hint) from None
        found[name] = one
    return found


def _problem(given: Any, place: str, load: str) -> Problem:
    if not isinstance(given, Problem):
        refuse(place, _kind(given), "give a Problem(id, split, public, files, private)")
    name = plain_data.name(given.id, f"{place}.id")
    owner = f"{load}, problem {name}"
    public = _table(given.public, f"{owner}: public", plain_data.text, plain_data.plain)
    return replace(given, id=name, public=public, files=_table(given.files, f"{owner}: files", _file_name, _content))


def _table(given: Any, field: str, read_key: Read, read: Read) -> Mapping[str, Any]:
    """Convert keys now, and values now if they are there: another mapping than a dictionary may make them on demand."""
    table = plain_data.mapping(given, field)
    keys = {read_key(key, f"{field}: a key"): key for key in table}
    if not isinstance(table, dict):
        return _OnDemand(table, keys, field, read)
    items = {name: read(table[key], f"{field}.{name}") for name, key in keys.items()}
    same = all(name is key and items[name] is table[key] for name, key in keys.items())
    return table if same else items


class _OnDemand(Mapping[str, Any]):
    """A mapping that makes its values when they are read, and converts them then."""

    def __init__(self, source: Mapping[Any, Any], keys: Mapping[str, Any], field: str, read: Read) -> None:
        self._source, self._keys, self._field, self._read = source, keys, field, read

    def __getitem__(self, name: str) -> Any:
        return self._read(self._source[self._keys[name]], f"{self._field}.{name}")

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


def _file_name(given: Any, field: str) -> str:
    """Return the file's name as text, if it stays in the directory that it is written into."""
    name = given.as_posix() if isinstance(given, PurePath) else plain_data.text(given, field)
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\0" in name:
        refuse(field, f"{name!r}", "give a relative path without `..`")
    return name


def _content(given: Any, field: str) -> bytes:
    if not isinstance(given, bytes | bytearray | memoryview):
        refuse(field, _kind(given), "give bytes: .encode()" if isinstance(given, str) else "give bytes")
    return bytes(given)  # Copies no bytes, only their kin.


def _kind(given: Any) -> str:
    return "None" if given is None else f"of type {type(given).__qualname__}"
