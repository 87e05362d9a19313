"""Changes of a harness's files: a new text, a deletion, or blocks of text to be replaced.

A block names the text it replaces, which must occur exactly once: a rewrite that could land in two
places is refused rather than guessed at.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from sia_core.errors import HarnessError
from sia_core.harness import Harness

_NEAR_LINES = 12
"""Of the file's own text shown beside a block that was not found."""


@dataclass(frozen=True)
class Block:
    """Text to be replaced, and what comes in its place."""

    search: str
    replace: str


@dataclass(frozen=True)
class Edit:
    """What becomes of one file: exactly one of `text`, `blocks` and `delete`."""

    file: str
    text: str | None = None
    """The whole new text."""
    blocks: tuple[Block, ...] = ()
    """Applied one after the other."""
    delete: bool = False

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild from `asdict`."""
        blocks = tuple(Block(**block) for block in data.get("blocks", ()))
        return cls(data["file"], data.get("text"), blocks, bool(data.get("delete", False)))


def apply_edits(harness: Harness, edits: Sequence[Edit]) -> Harness:
    """A new harness with the edits made, in order.

    Raises:
        HarnessError: an edit that says too little or too much, a file that is not there or is no text, a block
            that is not found or found twice, or files that make no harness.
    """
    files = dict(harness.files)
    for edit in edits:
        if (edit.text is not None) + bool(edit.blocks) + edit.delete != 1:
            raise HarnessError("give exactly one of text, blocks and delete", where=edit.file)
        if edit.text is not None:
            files[edit.file] = edit.text.encode()
            continue
        if edit.file not in files:
            known = ", ".join(sorted(files))
            raise HarnessError("no such file in the harness", where=edit.file, hint=f"files: {known}")
        if edit.delete:
            del files[edit.file]
        else:
            files[edit.file] = _replace(edit, files[edit.file]).encode()
    if "harness.toml" not in files:
        raise HarnessError("is deleted, and no harness is without it", where="harness.toml")
    return Harness.from_files(files, where="patch")


def unified_diff(before: Mapping[str, bytes], after: Mapping[str, bytes]) -> str:
    """The difference of two harnesses' files, as `diff -u` shows it; files that are no text by name alone."""
    parts = []
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name), after.get(name)
        if old == new:
            continue
        try:
            before_lines, after_lines = ((data or b"").decode().splitlines(keepends=True) for data in (old, new))
        except UnicodeDecodeError:
            parts.append(f"binary file {name} differs\n")
            continue
        origin = "/dev/null" if old is None else f"a/{name}"
        target = "/dev/null" if new is None else f"b/{name}"
        lines = difflib.unified_diff(before_lines, after_lines, origin, target)
        parts += [line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines]
    return "".join(parts)


def _replace(edit: Edit, data: bytes) -> str:
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise HarnessError("is no text: give all of its text", where=edit.file) from error
    for number, block in enumerate(edit.blocks, 1):
        found = text.count(block.search) if block.search else 0
        if found != 1:
            what = f"block {number}: its search text occurs {found} times, and must occur exactly once"
            hint = _nearest(text, block.search) if not found else "add lines before or after it to the block"
            raise HarnessError(what, where=edit.file, hint=f"{hint}; or give the file's whole text")
        text = text.replace(block.search, block.replace)
    return text


def _nearest(text: str, search: str) -> str:
    """The place that was probably meant, for whoever wrote the block to compare."""
    lines, wanted = text.splitlines(), search.splitlines()
    first = next((line for line in wanted if line.strip()), "")
    shared, start = max(((_shared(line, first), -at) for at, line in enumerate(lines)), default=(0, 0))
    if not first or shared < len(first) / 2:
        return "no line of the file resembles it"
    shown = "\n".join(lines[-start : -start + min(len(wanted), _NEAR_LINES)])
    return f"the nearest text, from line {1 - start}, is:\n{shown}"


def _shared(line: str, wanted: str) -> int:
    """Length of the longest text that both have."""
    return difflib.SequenceMatcher(None, line, wanted, autojunk=False).find_longest_match().size
