"""Change a harness's files: a new text, a deletion, or blocks of text to replace.

The text that a block replaces must occur exactly once. A block that fits two places is refused. Line ends and byte
order marks do not matter: files and edits are normalised (`text_files`).
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from sia_core.domain.errors import HarnessError
from sia_core.domain.harness import Harness
from sia_core.domain.text_files import normalised_text

EditScope = Literal["all", "prompts"]
PROMPT_FILES = (".md", ".txt")
"""File name endings of prompt and skill files."""
_NEAR_LINES = 12
"""Most lines of the file shown for a block that was not found."""


@dataclass(frozen=True)
class Block:
    """Text to replace, and its replacement."""

    search: str
    replace: str


@dataclass(frozen=True)
class Edit:
    """Change of one file: exactly one of `text`, `blocks` and `delete`."""

    file: str
    text: str | None = None
    """Whole new text of the file."""
    blocks: tuple[Block, ...] = ()
    """Blocks to replace, in order."""
    delete: bool = False


def apply_edits(harness: Harness, edits: Sequence[Edit]) -> Harness:
    """Make the edits in order and return the new harness.

    Raises:
        HarnessError: edits contradict each other, a file is missing or not text, a block is not found or found twice,
            or the files make no valid harness. One error holds all faults of all edits.
    """
    files = dict(harness.files)
    faults = [fault for edit in edits for fault in _apply(edit, files)]
    if not faults and "harness.toml" not in files:
        faults = [HarnessError("is deleted, and no harness is without it", where="harness.toml")]
    if len(faults) == 1:
        raise faults[0]
    if faults:
        raise HarnessError(f"{len(faults)} faults: " + "; ".join(map(str, faults)), where="edits")
    return Harness.from_files(files, where="patch")


def edits_between(before: Mapping[str, bytes], after: Mapping[str, bytes]) -> tuple[Edit, ...]:
    """Write a change as whole texts, so that it applies to any harness, and equal changes are equal edits.

    Raises:
        HarnessError: a new or changed file is not text.
    """
    edits = []
    for name in sorted(before.keys() | after.keys()):
        if name not in after:
            edits.append(Edit(name, delete=True))
        elif before.get(name) != after[name]:
            edits.append(Edit(name, _text(name, after[name])))
    return tuple(edits)


def _apply(edit: Edit, files: dict[str, bytes]) -> list[HarnessError]:
    """Make one edit in `files`, or return its faults."""
    if (edit.text is not None) + bool(edit.blocks) + edit.delete != 1:
        return [HarnessError("give exactly one of text, blocks and delete", where=edit.file)]
    if edit.text is not None:
        files[edit.file] = normalised_text(edit.text).encode()
        return []
    if edit.file not in files:
        known = ", ".join(sorted(files))
        return [HarnessError("no such file in the harness", where=edit.file, hint=f"files: {known}")]
    if edit.delete:
        del files[edit.file]
        return []
    return _replace(edit, files)


@dataclass(frozen=True)
class EditLimits:
    """Limits of one rewrite; SkillOpt's bounded edits are `prompts` with a number of lines."""

    scope: EditScope = "all"
    lines: int | None = None
    """Most lines added and removed, over all files."""

    def __str__(self) -> str:
        parts = [f"only {' and '.join(PROMPT_FILES)} files may change"] if self.scope == "prompts" else []
        if self.lines is not None:
            parts.append(f"at most {self.lines} lines may be added and removed")
        return ", and ".join(parts)

    def check(self, before: Mapping[str, bytes], after: Mapping[str, bytes]) -> None:
        """Refuse a rewrite that exceeds the limits.

        Raises:
            HarnessError: the rewrite changes another file, or too many lines.
        """
        changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
        outside = [name for name in changed if self.scope == "prompts" and not name.endswith(PROMPT_FILES)]
        if outside:
            raise HarnessError("is outside this run's edit scope", where=outside[0], hint=str(self))
        count = sum(_changed_lines(before.get(name, b""), after.get(name, b"")) for name in changed)
        if self.lines is not None and count > self.lines:
            raise HarnessError(f"changes {count} lines", where="the rewrite", hint=str(self))


def _changed_lines(before: bytes, after: bytes) -> int:
    """Count removed and added lines."""
    old, new = before.splitlines(), after.splitlines()
    same = sum(block.size for block in difflib.SequenceMatcher(None, old, new, autojunk=False).get_matching_blocks())
    return len(old) + len(new) - 2 * same


def unified_diff(before: Mapping[str, bytes], after: Mapping[str, bytes]) -> str:
    """Compare the files of two harnesses, as `diff -u` does; binary files are only named."""
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


def _text(name: str, data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise HarnessError("is no text: give all of its text", where=name) from error


def _replace(edit: Edit, files: dict[str, bytes]) -> list[HarnessError]:
    try:
        text = normalised_text(_text(edit.file, files[edit.file]))
    except HarnessError as error:
        return [error]
    faults = []
    for number, block in enumerate(edit.blocks, 1):
        search, new = normalised_text(block.search), normalised_text(block.replace)
        found = text.count(search) if search else 0
        if found != 1:
            what = f"block {number}: its search text occurs {found} times, and must occur exactly once"
            hint = _nearest(text, search) if not found else "add lines before or after it to the block"
            faults.append(HarnessError(what, where=edit.file, hint=f"{hint}; or give the file's whole text"))
        else:
            text = text.replace(search, new)
    if not faults:
        files[edit.file] = text.encode()
    return faults


def _nearest(text: str, search: str) -> str:
    """Show the author of a block the place that was probably meant."""
    lines, wanted = text.splitlines(), search.splitlines()
    first = next((line for line in wanted if line.strip()), "")
    shared, start = max(((_shared(line, first), -at) for at, line in enumerate(lines)), default=(0, 0))
    if not first or shared < len(first) / 2:
        return "no line of the file resembles it"
    shown = "\n".join(lines[-start : -start + min(len(wanted), _NEAR_LINES)])
    return f"the nearest text, from line {1 - start}, is:\n{shown}"


def _shared(line: str, wanted: str) -> int:
    """Return the length of the longest common text."""
    return difflib.SequenceMatcher(None, line, wanted, autojunk=False).find_longest_match().size
