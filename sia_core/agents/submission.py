"""A Feedback-Agent's submission: its schema, and the checks that turn it into a Decision.

Every claim that can be checked is: nodes, rollouts and problems exist, ranges are ordered, edits apply. What is
wrong goes back in words; nothing is repaired silently.
"""

from collections.abc import Mapping
from typing import Any, Literal, get_args

from pydantic import Field

from sia_core.agents.conversation import SubmissionError
from sia_core.agents.library import Library, ReadingError
from sia_core.agents.protocol import Situation
from sia_core.agents.source import Source
from sia_core.agents.tools import Arguments
from sia_core.generation import Decision
from sia_core.harness import KnobValue
from sia_core.patch import Block, Edit

Category = Literal[
    "prompt",
    "parsing",
    "tools",
    "retry",
    "search",
    "selection",
    "decoding",
    "budget",
    "memory",
    "robustness",
    "retire",
    "policy",
    "exploration",
    "other",
]
"""Kinds of hypothesis; the lever memory counts by them. `retire` removes a part of the harness that the weights
have absorbed."""
CATEGORIES: tuple[str, ...] = get_args(Category)
_TEXT = 4000


class BlockArgument(Arguments):
    """Text to be replaced."""

    search: str = Field(description="text that occurs exactly once in the file, indentation included")
    replace: str


class EditArgument(Arguments):
    """What becomes of one file: exactly one of text, blocks and delete."""

    file: str
    text: str | None = Field(None, description="the whole new text of the file")
    blocks: list[BlockArgument] = Field([], description="search/replace blocks, applied in order")
    delete: bool = False


class Submission(Arguments):
    """The arguments of submit_decision."""

    lever: Literal["harness", "weights", "both", "stop"]
    parent: int = Field(description="lineage node to branch from")
    parent_reason: str = Field("", max_length=_TEXT, description="why, where it is not the node that was executed")
    diagnosis: str = Field(min_length=1, max_length=_TEXT, description="what goes wrong, and why, from what you read")
    cites: list[str] = Field(description="ids of the rollouts the diagnosis rests on")
    hypothesis: str = Field("", max_length=_TEXT, description="why the change should help")
    category: Category = "other"
    predicted_gain: float = Field(0.0, description="of the score at the gate")
    predicted_low: float | None = None
    predicted_high: float | None = None
    predicted_fixes: list[str] = Field([], description="problems that should improve")
    at_risk: list[str] = Field([], description="problems that may become worse")
    falsifier: str = Field("", max_length=_TEXT, description="what would show that the hypothesis is wrong")
    edits: list[EditArgument] = Field([], description="levers harness and both: changes of files")
    knobs: dict[str, KnobValue] = Field({}, description="levers harness and both: knob -> new value")
    update: dict[str, Any] = Field({}, description="levers weights and both: settings that differ from the task's")


def take(submission: Submission, situation: Situation, library: Library, source: Source, agent: str) -> Decision:
    """The decision that was submitted.

    Raises:
        SubmissionError: what is wrong with it, all of it at once where that can be told.
    """
    wrong = list(_wrong(submission, situation))
    cites, unknown = _cites(submission, library)
    wrong += unknown
    if wrong:
        raise SubmissionError("; ".join(wrong))
    decision = _decision(submission, cites, agent)
    refused = source.refuse(decision)
    if refused is not None:
        raise SubmissionError(refused)
    return decision


def _wrong(given: Submission, situation: Situation) -> list[str]:
    wrong = []
    rewrites, trains = given.lever in ("harness", "both"), given.lever in ("weights", "both")
    needed = {"both": ("harness", "weights"), "stop": ()}.get(given.lever, (given.lever,))
    missing = [lever for lever in needed if lever not in situation.levers]
    if missing:
        wrong.append(f"this run may not pull lever {missing[0]}; it may pull: {', '.join(situation.levers)}")
    if not 0 <= given.parent < len(situation.nodes):
        wrong.append(f"parent: there is no node {given.parent}; the lineage has 0 to {len(situation.nodes) - 1}")
    if rewrites and not (given.edits or given.knobs):
        wrong.append(f"lever {given.lever} needs edits or knobs")
    if not rewrites and (given.edits or given.knobs):
        wrong.append(f"edits and knobs belong to lever harness or both, not to {given.lever}")
    if not trains and given.update:
        wrong.append(f"update belongs to lever weights or both, not to {given.lever}")
    if given.lever != "stop" and not (given.hypothesis and given.falsifier):
        wrong.append("hypothesis and falsifier must be given")
    if given.lever != "stop" and not given.cites:
        wrong.append("cites: name at least one rollout that the diagnosis rests on")
    low, high = given.predicted_low, given.predicted_high
    if (low is None) != (high is None):
        wrong.append("give both of predicted_low and predicted_high, or none")
    elif low is not None and high is not None and not low <= given.predicted_gain <= high:
        wrong.append(f"predicted_gain {given.predicted_gain:g} is not within {low:g} to {high:g}")
    unknown = sorted({*given.predicted_fixes, *given.at_risk} - set(situation.problems))
    if unknown:
        wrong.append(f"no training problem {unknown[0]!r}; list_problems shows their names")
    return wrong


def _cites(given: Submission, library: Library) -> tuple[tuple[str, ...], list[str]]:
    found, wrong = [], []
    for cited in given.cites:
        try:
            found.append(library.find(cited).unit.key)
        except ReadingError as error:
            wrong.append(f"cites: {error}")
    return tuple(dict.fromkeys(found)), wrong


def _decision(given: Submission, cites: tuple[str, ...], agent: str) -> Decision:
    low, high = given.predicted_low, given.predicted_high
    return Decision(
        lever=given.lever,
        parent=given.parent,
        reason=given.diagnosis,
        parent_reason=given.parent_reason,
        agent=agent,
        predicted_gain=given.predicted_gain,
        predicted_range=None if low is None or high is None else (low, high),
        knobs=given.knobs,
        edits=tuple(map(to_edit, given.edits)),
        update=given.update,
        hypothesis=given.hypothesis,
        category=given.category,
        fixes=tuple(given.predicted_fixes),
        risks=tuple(given.at_risk),
        falsifier=given.falsifier,
        cites=cites,
    )


def to_edit(given: EditArgument) -> Edit:
    """The edit that was asked for."""
    return Edit(
        given.file, given.text, tuple(Block(block.search, block.replace) for block in given.blocks), given.delete
    )


def describe_update(schema: Mapping[str, str]) -> str:
    """The settings of a weight update that may be proposed, a line each."""
    return "\n".join(f"- {name}: {text}" for name, text in schema.items())
