"""Split a unified diff into lines to show, with the changed words marked."""

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["file", "hunk", "add", "del", "same"]
LINES = 1200
"""Lines shown of a diff."""
WIDTH = 600
"""Characters shown of a line."""
_MARKED = 400
"""Longest line, in characters, in which changed words are marked."""
_PAIRS = 40
"""Most consecutive changed lines in which changed words are marked."""
_WORD = re.compile(r"\w+|\s+|.")


@dataclass(frozen=True)
class Line:
    """A line of the diff: its parts, each with True if it changed."""

    kind: Kind
    parts: tuple[tuple[bool, str], ...]


def read_diff(diff: str) -> tuple[list[Line], int]:
    """Return the lines of a unified diff that are shown, and the number of further lines."""
    lines = diff.split("\n")
    if lines and not lines[-1]:
        lines.pop()
    return list(_marked([(_kind(line), _cut(line)) for line in lines[:LINES]])), max(len(lines) - LINES, 0)


def _kind(line: str) -> Kind:
    if line.startswith(("--- ", "+++ ", "binary file ")):
        return "file"
    if line.startswith("@@"):
        return "hunk"
    return {"+": "add", "-": "del"}.get(line[:1], "same")  # type: ignore[return-value]


def _cut(line: str) -> str:
    return line if len(line) <= WIDTH else f"{line[:WIDTH]} [... {len(line) - WIDTH} characters left out ...]"


def _marked(lines: Sequence[tuple[Kind, str]]) -> Iterator[Line]:
    """Compare removed lines in pairs with equally many added lines that follow."""
    at = 0
    while at < len(lines):
        removed = _run(lines, at, "del")
        added = _run(lines, at + removed, "add")
        if 0 < removed <= _PAIRS and removed == added:
            pairs = [_pair(lines[at + one][1], lines[at + removed + one][1]) for one in range(removed)]
            yield from (Line("del", old) for old, _ in pairs)
            yield from (Line("add", new) for _, new in pairs)
            at += removed + added
        else:
            yield Line(lines[at][0], ((False, lines[at][1]),))
            at += 1


def _run(lines: Sequence[tuple[Kind, str]], start: int, kind: Kind) -> int:
    end = start
    while end < len(lines) and lines[end][0] == kind:
        end += 1
    return end - start


Parts = tuple[tuple[bool, str], ...]


def _pair(old: str, new: str) -> tuple[Parts, Parts]:
    if max(len(old), len(new)) > _MARKED:
        return ((False, old),), ((False, new),)
    before, after = _WORD.findall(old[1:]), _WORD.findall(new[1:])
    matcher = difflib.SequenceMatcher(None, before, after, autojunk=False)
    left: list[tuple[bool, str]] = [(False, old[:1])]
    right: list[tuple[bool, str]] = [(False, new[:1])]
    for tag, i1, i2, j1, j2 in matcher.get_opcodes():
        left.append((tag != "equal", "".join(before[i1:i2])))
        right.append((tag != "equal", "".join(after[j1:j2])))
    return tuple(part for part in left if part[1]), tuple(part for part in right if part[1])
