"""A Feedback-Agent's submission: its schema, and the checks that turn it into a Decision.

Checks: nodes, rollouts and problems exist, ranges are ordered, edits apply, and a rewrite passes the rungs before the
minibatch. All faults are returned at once; nothing is repaired silently. Edits to any harness are kept as whole texts
against the parent's files, so that a decision is complete by itself.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from sia_core.agents.conversation import SubmissionError
from sia_core.agents.library import Library, ReadingError, Ref
from sia_core.agents.protocol import Situation
from sia_core.agents.source import Source
from sia_core.agents.tools import Arguments
from sia_core.agents.trying import EditArgument, to_edit
from sia_core.domain.errors import HarnessError
from sia_core.domain.harness import KnobValue
from sia_core.domain.lineage import Decision
from sia_core.domain.patch import Edit, apply_edits, edits_between

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
"""Kinds of hypothesis, by which the lever memory counts. `retire` removes a part of the harness that the weights
have absorbed."""
_TEXT = 4000
_Gain = Annotated[float, Field(ge=-1e9, le=1e9)]


class Submission(Arguments):
    """The arguments of submit_decision."""

    lever: Literal["harness", "weights", "both", "stop"]
    parent: int = Field(description="lineage node to branch from")
    parent_reason: str = Field("", max_length=_TEXT, description="why, where it is not the node that was executed")
    diagnosis: str = Field(min_length=1, max_length=_TEXT, description="what goes wrong, and why, from what you read")
    cites: list[str] = Field(description="ids of the rollouts the diagnosis rests on")
    hypothesis: str = Field("", max_length=_TEXT, description="why the change should help")
    category: Category = "other"
    predicted_gain: _Gain = Field(0.0, description="of the score at the gate")
    predicted_low: _Gain | None = None
    predicted_high: _Gain | None = None
    predicted_fixes: list[str] = Field([], description="problems that should improve")
    at_risk: list[str] = Field([], description="problems that may become worse")
    falsifier: str = Field("", max_length=_TEXT, description="what would show that the hypothesis is wrong")
    base: Ref | None = Field(
        None, description="harness that the edits are made to, a node or `draft ID`; left out, the parent's"
    )
    edits: list[EditArgument] = Field([], description="levers harness and both: changes of files of the base")
    knobs: dict[str, KnobValue] = Field({}, description="levers harness and both: knob -> new value")
    update: dict[str, Any] = Field({}, description="levers weights and both: settings that differ from the task's")
    memo: str = Field("", max_length=_TEXT, description="a note to yourself, shown before your next decision")


def take(submission: Submission, situation: Situation, library: Library, source: Source, agent: str) -> Decision:
    """Check a submission and convert it to a decision.

    Raises:
        SubmissionError: all faults of the submission, or, if there are none, those that the rejecting rung found.
    """
    cites, unknown = _cites(submission, library)
    wrong = [*_wrong(submission, situation), *unknown]
    edits, unwritable = _edits(submission, library)
    decision = _decision(submission, cites, edits, agent)
    wrong += unwritable
    # Objections repeat some of the faults above.
    wrong += [] if unwritable else [fault for fault in source.objections(decision) if fault not in wrong]
    faults = wrong or source.validate(decision)
    if faults:
        raise SubmissionError("\n".join(f"- {fault}" for fault in dict.fromkeys(faults)))
    return decision


def _edits(given: Submission, library: Library) -> tuple[tuple[Edit, ...], list[str]]:
    """Return the edits against the parent's files, or the fault that prevents them."""
    if given.lever not in ("harness", "both"):
        return (), []
    try:
        parent = library.candidate(given.parent)
        base = parent if given.base is None else library.harness(given.base)
        return edits_between(parent.files, apply_edits(base, list(map(to_edit, given.edits))).files), []
    except (HarnessError, ReadingError) as error:
        return (), [str(error)]


def _wrong(given: Submission, situation: Situation) -> list[str]:
    wrong = []
    rewrites, trains = given.lever in ("harness", "both"), given.lever in ("weights", "both")
    needed = {"both": ("harness", "weights"), "stop": ()}.get(given.lever, (given.lever,))
    missing = [lever for lever in needed if lever not in situation.levers]
    if missing:
        wrong.append(f"this run may not pull lever {missing[0]}; it may pull: {', '.join(situation.levers)}")
    if rewrites and not (given.edits or given.knobs or given.base is not None):
        wrong.append(f"lever {given.lever} needs edits, knobs or another base")
    if not rewrites and (given.edits or given.knobs or given.base is not None):
        wrong.append(f"base, edits and knobs belong to lever harness or both, not to {given.lever}")
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
        names = ", ".join(map(repr, unknown))
        wrong.append(f"predicted_fixes, at_risk: no executed problem {names}; list_problems shows their names")
    return wrong


def _cites(given: Submission, library: Library) -> tuple[tuple[str, ...], list[str]]:
    found, wrong = [], []
    for cited in given.cites:
        try:
            found.append(library.find(cited).unit.key)
        except ReadingError as error:
            wrong.append(f"cites: {error}")
    return tuple(dict.fromkeys(found)), wrong


def _decision(given: Submission, cites: tuple[str, ...], edits: tuple[Edit, ...], agent: str) -> Decision:
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
        edits=edits,
        update=given.update,
        hypothesis=given.hypothesis,
        category=given.category,
        fixes=tuple(given.predicted_fixes),
        risks=tuple(given.at_risk),
        falsifier=given.falsifier,
        memo=given.memo,
        cites=cites,
    )


def describe_update(schema: Mapping[str, str]) -> str:
    """List the settings that a weight update may propose, a line each."""
    return "\n".join(f"- {name}: {text}" for name, text in schema.items())
