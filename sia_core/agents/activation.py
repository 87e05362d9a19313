"""Did a rewrite do anything? What was changed, and where in its rollouts that shows.

A changed line inside a function shows in the trace, a changed line of any other text in a prompt that the
gateway recorded, a changed knob in being read. Whatever was changed, it also shows when the child behaves otherwise
than its parent under the same randomness (`Unit.twin`): it asks something else, or answers otherwise to the same
replies. Where only the reply to the same question differs, that is the policy, and nothing is concluded.

Code at module level runs whenever it is imported and lines that were removed never do: both show by behaviour alone.
"""

import difflib
import inspect
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import CodeType

from sia_core.harness import Harness
from sia_core.rollout import Rollout

_PLACEHOLDER = re.compile(r"\{[^{}]*\}")
_WORD = re.compile(r"\w\w")


@dataclass(frozen=True)
class Changes:
    """What a rewrite changed, as far as it can be seen to run."""

    lines: frozenset[tuple[str, int]]
    """File and line, inside functions of the child."""
    texts: tuple[re.Pattern[str], ...]
    """Changed lines of files that are no code; placeholders match anything."""
    knobs: frozenset[str]

    def __str__(self) -> str:
        return f"{len(self.lines)} lines of functions, {len(self.texts)} lines of text, {len(self.knobs)} knobs"


@dataclass(frozen=True)
class Sighting:
    """What of the changes shows in one rollout."""

    ran: bool
    """A changed line was run, occurred in a prompt, or a changed knob was read."""
    differs: bool
    """Behaviour differs from the parent's."""


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
    """What one rollout of the child shows, beside the parent's with the same randomness where there is one."""
    ran = False
    if child.trace is not None:
        run = {(name, number) for name, lines in child.trace.lines.items() for number in lines}
        ran = bool(changed.lines & run) or bool(changed.knobs & set(child.trace.knobs))
    prompts = [turn.prompt for turn in child.turns]
    ran = ran or any(pattern.search(prompt) for pattern in changed.texts for prompt in prompts)
    return Sighting(ran, parent is not None and differs(child, parent))


def differs(child: Rollout, parent: Rollout) -> bool:
    """Whether the two harnesses did different things with the same replies."""
    for one, other in zip(child.turns, parent.turns, strict=False):
        if (one.kind, one.prompt) != (other.kind, other.prompt):
            return True
        if (one.output, one.tool_calls) != (other.output, other.tool_calls):
            return False
    ends = [
        (len(side.turns), side.answer, side.failure and side.failure.kind, _notes(side)) for side in (child, parent)
    ]
    return ends[0] != ends[1]


def shares(sightings: Sequence[Sighting]) -> dict[str, float]:
    """Shares of rollouts in which changes ran, behaviour differs, either."""
    count = max(len(sightings), 1)
    return {
        "ran": sum(one.ran for one in sightings) / count,
        "differs": sum(one.differs for one in sightings) / count,
        "active": sum(one.ran or one.differs for one in sightings) / count,
    }


def _notes(rollout: Rollout) -> tuple[str, ...]:
    """Without those of failed rollouts, whose last is a traceback with line numbers."""
    return rollout.notes if rollout.failure is None else ()


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
    """Finds a line of a template in a text made from it."""
    parts = [re.escape(part.strip().replace("{{", "{").replace("}}", "}")) for part in _PLACEHOLDER.split(line.strip())]
    return re.compile(r"[\s\S]{0,4000}?".join(part for part in parts if part))
