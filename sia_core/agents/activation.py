"""Distinguish an effective rewrite from a no-op, by its rollouts and their twins of the parent.

A change shows in a rollout in two ways. Either the change ran: a changed line inside a function is in the trace, a
changed line of any text is in the record (a prompt, an option, an answer, a program), or a changed knob was read. Or
the record differs: the child asked, offered, received, ran, answered or scored differently from its twin. A no-op
leaves every record equal, so a rewrite with another score on a twin is never a no-op. If the policy does not repeat
itself under the same seed, its noise counts as a difference, and the gate decides.
"""

import difflib
import inspect
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import CodeType
from typing import Any

from sia_core.domain.harness import Harness
from sia_core.domain.rollout import Rollout

_PLACEHOLDER = re.compile(r"\{[^{}]*\}")
_WORD = re.compile(r"\w\w")


@dataclass(frozen=True)
class Changes:
    """The observable parts of a rewrite."""

    lines: frozenset[tuple[str, int]]
    """File and line, inside functions of the child."""
    texts: tuple[re.Pattern[str], ...]
    """Changed lines of any file; placeholders match anything."""
    knobs: frozenset[str]

    def __str__(self) -> str:
        return f"{len(self.lines)} lines of functions, {len(self.texts)} lines of text, {len(self.knobs)} knobs"


@dataclass(frozen=True)
class Sighting:
    """Effects of the changes in one rollout."""

    ran: bool
    """A changed line was run, a changed text was recorded, or a changed knob was read."""
    differs: bool
    """The record differs from the parent's."""


def changes(parent: Harness, child: Harness) -> Changes:
    """Compare two harnesses whose code parses."""
    lines: set[tuple[str, int]] = set()
    texts: list[re.Pattern[str]] = []
    for name, data in sorted(child.files.items()):
        if name == "harness.toml" or data == parent.files.get(name):
            continue
        changed = list(_changed(parent.files.get(name, b""), data))
        if name.endswith(".py"):
            inside = _lines_of_functions(compile(data, name, "exec", dont_inherit=True))
            lines |= {(name, number) for number, _ in changed if number in inside}
        texts += [_pattern(text) for _, text in changed if _WORD.search(_PLACEHOLDER.sub("", text))]
    moved = {name for name, value in child.knobs.items() if parent.knobs.get(name) != value}
    return Changes(frozenset(lines), tuple(texts), frozenset(moved))


def sight(changed: Changes, child: Rollout, parent: Rollout | None) -> Sighting:
    """Find the changes in one rollout of the child, compared with the parent's twin if there is one."""
    ran = False
    if child.trace is not None:
        run = {(name, number) for name, lines in child.trace.lines.items() for number in lines}
        ran = bool(changed.lines & run) or bool(changed.knobs & set(child.trace.knobs))
    texts = list(_texts(child))
    ran = ran or any(pattern.search(text) for pattern in changed.texts for text in texts)
    return Sighting(ran, parent is not None and differs(child, parent))


def differs(child: Rollout, parent: Rollout) -> bool:
    """Return True if the records of the two rollouts differ, times and traces aside."""
    return _recorded(child) != _recorded(parent)


def shares(sightings: Sequence[Sighting]) -> dict[str, float]:
    """Shares of rollouts in which changes ran, the record differs, either."""
    count = max(len(sightings), 1)
    return {
        "ran": sum(one.ran for one in sightings) / count,
        "differs": sum(one.differs for one in sightings) / count,
        "active": sum(one.ran or one.differs for one in sightings) / count,
    }


def _recorded(rollout: Rollout) -> tuple[Any, ...]:
    """Return the recorded behaviour of a rollout; a traceback's line numbers are not behaviour."""
    turns = [(turn.kind, turn.prompt, turn.options, turn.output, turn.tool_calls) for turn in rollout.turns]
    programs = [(run.code, run.status) for run in rollout.programs]
    failure = rollout.failure and rollout.failure.kind
    notes = rollout.notes if rollout.failure is None else ()
    return turns, programs, rollout.answer, failure, notes, rollout.score


def _texts(rollout: Rollout) -> Iterator[str]:
    for turn in rollout.turns:
        yield turn.prompt
        yield from turn.options or ()
    yield from (run.code for run in rollout.programs)
    yield from _strings(rollout.answer)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        yield json.dumps(value, ensure_ascii=False)
        for one in value.values() if isinstance(value, dict) else value:
            yield from _strings(one)


def _changed(before: bytes, after: bytes) -> Iterator[tuple[int, str]]:
    """Number and text of the lines of `after` that are new or changed."""
    old, new = (data.decode(errors="replace").splitlines() for data in (before, after))
    for tag, _, _, start, end in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if tag in ("replace", "insert"):
            yield from ((number + 1, new[number]) for number in range(start, end) if new[number].strip())


def _lines_of_functions(module: CodeType) -> set[int]:
    found: set[int] = set()
    todo = [module]
    while todo:
        code = todo.pop()
        todo += [one for one in code.co_consts if isinstance(one, CodeType)]
        if code.co_flags & inspect.CO_OPTIMIZED:
            lines = {line for _, _, line in code.co_lines() if line}
            found |= lines - {code.co_firstlineno} or lines
    return found


def _pattern(line: str) -> re.Pattern[str]:
    """Match a line of a template in a text made from it."""
    parts = [re.escape(part.strip().replace("{{", "{").replace("}}", "}")) for part in _PLACEHOLDER.split(line.strip())]
    return re.compile(r"[\s\S]{0,4000}?".join(part for part in parts if part))
