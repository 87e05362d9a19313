"""Tools of both agents to read the task's training side, and to play a draft before they submit one.

`Playing` is the part that differs: the Feedback-Agent edits a harness of the lineage or a draft, and is compared with
the parent; the Meta-Agent starts from nothing or an earlier draft, without a comparison.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from pydantic import Field

from sia_core.agents.library import ReadingError, Ref
from sia_core.agents.quote import quote
from sia_core.agents.source import Materials
from sia_core.agents.tools import Arguments, Tool
from sia_core.agents.trial import Left, Trial, describe_trial
from sia_core.domain.errors import HarnessError
from sia_core.domain.harness import Harness, KnobValue
from sia_core.domain.hashing import canonical_json
from sia_core.domain.patch import Block, Edit, apply_edits

TEXT = 12_000
_LISTED = 200


class BlockArgument(Arguments):
    """Text to be replaced."""

    search: str = Field(description="text that occurs exactly once in the file, indentation included")
    replace: str


class EditArgument(Arguments):
    """The change of one file: exactly one of text, blocks and delete."""

    file: str
    text: str | None = Field(None, description="the whole new text of the file")
    blocks: list[BlockArgument] = Field([], description="search/replace blocks, applied in order")
    delete: bool = False


def to_edit(given: EditArgument) -> Edit:
    """Convert an argument to the edit that it asks for."""
    blocks = tuple(Block(block.search, block.replace) for block in given.blocks)
    return Edit(given.file, given.text, blocks, given.delete)


class TryArguments(Arguments):
    """The arguments of try_harness."""

    base: Ref | None = Field(None, description="harness to edit: a node, or `draft ID`; left out, the parent's")
    edits: list[EditArgument] = Field([], description="changes of files")
    knobs: dict[str, KnobValue] = Field({}, description="knob -> new value")
    parent: int | None = Field(None, description="node to compare with; left out, the executed one")
    problems: list[str] = Field([], max_length=64, description="training problems; left out, executed ones")
    rollouts: int = Field(1, ge=1, le=16, description="rollouts of each problem")


class Playing(Protocol):
    """Plays the drafts of one agent."""

    def harness(self, base: Ref | None, parent: int | None) -> Harness:
        """The harness to edit: the base, or the parent's. Raises ReadingError where there is none."""

    def play(self, draft: Harness, parent: int | None, problems: Sequence[str], rollouts: int) -> Trial:
        """Play it within the allowance."""

    def left(self) -> Left:
        """The rest of the allowance."""


def try_tool(playing: Playing, problems: Sequence[str]) -> Tool[Any]:
    """Build `try_harness`.

    Args:
        problems: default training problems, played as far as the allowance holds.
    """
    return Tool(
        "try_harness",
        "Play a draft on training problems before you decide: scores beside the parent's on the same problems and "
        "seeds, failures by message, transcripts. Costs the run's budget; the allowance of one decision is bounded.",
        TryArguments,
        lambda given: describe_trial(_try(playing, problems, given)),
    )


def _try(playing: Playing, problems: Sequence[str], given: TryArguments) -> Trial:
    try:
        draft = apply_edits(playing.harness(given.base, given.parent), [to_edit(edit) for edit in given.edits])
        draft = draft.with_knobs(given.knobs)
    except HarnessError as error:
        raise ReadingError(f"{error}\n{playing.left()}") from error
    named = given.problems or chosen(playing, problems, given.rollouts)
    return playing.play(draft, given.parent, list(dict.fromkeys(named)), given.rollouts)


def chosen(playing: Playing, problems: Sequence[str], rollouts: int) -> list[str]:
    """Pick the problems of a trial that names none: as many as the allowance holds."""
    return list(problems)[: max(1, min(8, playing.left().rollouts // (2 * rollouts)))]


class _Problem(Arguments):
    id: str
    start: int = Field(0, ge=0)


class _Text(Arguments):
    name: str
    start: int = Field(0, ge=0)


def material_tools(materials: Materials) -> list[Tool[Any]]:
    """Build the tools that show training problems and texts."""
    return [
        Tool(
            "read_problem",
            "Public part of a training problem, as JSON: all that a harness sees of it.",
            _Problem,
            lambda given: _read_problem(materials, given),
        ),
        Tool(
            "read_text",
            "A text that the task brings: references/NAME, or shared/NAME as a harness finds it in ctx.shared.",
            _Text,
            lambda given: _read_text(materials, given),
        ),
    ]


def _read_problem(materials: Materials, given: _Problem) -> str:
    public = materials.problem(given.id)
    if public is None:
        raise ReadingError(f"no training problem {given.id!r}; there are: {listed(materials.problem_ids())}")
    return quote(canonical_json(public).decode(), f"problem {given.id}", start=given.start, limit=TEXT)


def _read_text(materials: Materials, given: _Text) -> str:
    if given.name not in materials.texts():
        raise ReadingError(f"no text {given.name!r}; there are: {listed(list(materials.texts()))}")
    text = materials.text(given.name).decode(errors="replace")
    return quote(text, given.name, start=given.start, limit=TEXT)


def listed(names: Sequence[str]) -> str:
    """Join names, at most _LISTED of them."""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return (", ".join(names[:_LISTED]) or "none") + more
