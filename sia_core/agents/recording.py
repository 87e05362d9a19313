"""Recorded decisions: one JSON file with every decision of a finished run, from which they can be made again.

Generation and sibling identify a decision, and its parent. A decision holds whole texts of the files that it
changes, so that it depends neither on ids of rollouts nor on the bytes of an evidence text. The harness of each
recorded node follows from the first harness and the decisions alone (`Recording.harness`).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sia_core.domain.errors import HarnessError, PolicyError
from sia_core.domain.harness import Harness, KnobValue
from sia_core.domain.invalid import in_words
from sia_core.domain.json_data import UnfitError, parse
from sia_core.domain.lineage import SEED_NODE
from sia_core.domain.patch import Edit, apply_edits

FORMAT: Literal["sia-decisions/1"] = "sia-decisions/1"
DECISIONS = "decisions.json"
"""Name of the file in the record of a finished run and in its export."""
SAID = (
    *("lever", "reason", "hypothesis", "category", "predicted_gain", "predicted_range"),
    *("fixes", "risks", "falsifier", "memo"),
)
"""Fields that a decision and its recording have in common as they are."""
REWRITES, TRAINS = ("harness", "both"), ("weights", "both")
_HINT = "name the decisions.json that `sia export RUN DIR` wrote: --agent recorded:DIR/decisions.json"


class Key(NamedTuple):
    """Place of a decision, and of its node."""

    generation: int
    sibling: int

    def __str__(self) -> str:
        if self == SEED:
            return "the seed"
        return f"generation {self.generation}" + (f", sibling {self.sibling}" if self.sibling else "")


SEED = Key(0, SEED_NODE)


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Place(_Part):
    """The node to branch from: generation and sibling that made it; 0 and 0 for the seed."""

    generation: int = Field(ge=0)
    sibling: int = Field(default=0, ge=0)


class RecordedEdit(_Part):
    """One file of the rewrite: its whole new text, or its deletion."""

    file: str = Field(min_length=1)
    text: str | None = None
    delete: bool = False

    @model_validator(mode="after")
    def _check(self) -> "RecordedEdit":
        if (self.text is not None) + self.delete != 1:
            raise ValueError("give either text or delete")
        return self


class RecordedDecision(_Part):
    """One decision, and its outcome in the recorded run."""

    generation: int = Field(ge=1)
    sibling: int = Field(default=0, ge=0)
    lever: Literal["harness", "weights", "both", "none", "stop"]
    parent: Place
    by: str = ""
    """Agent that decided, if not the run's: `rules` in place of a model that did not decide."""
    parent_reason: str = ""
    reason: str
    hypothesis: str = ""
    category: str = ""
    predicted_gain: float = 0.0
    predicted_range: tuple[float, float] | None = None
    knobs: dict[str, KnobValue] = {}
    edits: tuple[RecordedEdit, ...] = ()
    """Changes against the files of the parent."""
    update: dict[str, Any] = {}
    fixes: tuple[str, ...] = ()
    risks: tuple[str, ...] = ()
    falsifier: str = ""
    memo: str = ""
    cites: tuple[str, ...] = ()
    """Rollouts of the recorded run, for people; never looked up."""
    harness: str = ""
    """Digest of the harness of the decision's node."""
    promoted: bool = False
    failure: str = ""
    """Reason why the decision led to no child, in the recorded run."""

    @property
    def key(self) -> Key:
        """Place of the decision."""
        return Key(self.generation, self.sibling)

    @property
    def parent_key(self) -> Key:
        """Place of the node to branch from."""
        return Key(self.parent.generation, self.parent.sibling)

    def rewrite(self, base: Harness) -> Harness:
        """Apply the recorded edits and knob moves.

        Raises:
            HarnessError: this harness does not allow them.
        """
        edits = [Edit(edit.file, edit.text, delete=edit.delete) for edit in self.edits]
        return apply_edits(base, edits).with_knobs(self.knobs)

    @model_validator(mode="after")
    def _check(self) -> "RecordedDecision":
        rewrites, trains = self.lever in REWRITES, self.lever in TRAINS
        if rewrites and not (self.edits or self.knobs):
            raise ValueError(f"lever {self.lever} needs edits or knobs")
        if not rewrites and self.lever != "none" and (self.edits or self.knobs):
            raise ValueError(f"edits and knobs belong to lever harness or both, not to {self.lever}")
        if not trains and self.lever != "none" and self.update:
            raise ValueError(f"update belongs to lever weights or both, not to {self.lever}")
        if self.predicted_range is not None and self.predicted_range[0] > self.predicted_range[1]:
            raise ValueError("predicted_range ends before it begins")
        if self.parent.generation >= self.generation:
            raise ValueError(f"branches from {self.parent_key}, which is not made before")
        return self


class TaskName(_Part):
    """The task of the recorded run."""

    name: str
    digest: str


class FirstHarness(_Part):
    """The seed of the lineage."""

    harness: str
    """Digest."""
    adapter: str | None = None
    """Digest of the adapter that the run began with, which the file does not hold; None for the bare policy."""
    files: dict[str, str] | None = None
    """All files by name, if the harness was written by the Meta-Agent or taken from another run; else None."""


class Used(_Part):
    """Requests, tokens and dollars of the language model that decided."""

    turns: int = Field(default=0, ge=0)
    prompt_tokens: int = Field(default=0, ge=0)
    output_tokens: int = Field(default=0, ge=0)
    dollars: float | None = None
    """Cost; None where the model had no price."""
    priced_as: str = ""
    """Name under which the price of the model was found."""


class Recording(_Part):
    """The contents of a file of recorded decisions."""

    format: Literal["sia-decisions/1"] = FORMAT
    run: str
    task: TaskName
    policy: str
    """Spec of the policy that the recorded run improved."""
    seed: int
    generations: int = Field(ge=0)
    """Generations that were decided."""
    siblings: int = Field(default=1, ge=1)
    agent: str = Field(min_length=1, max_length=200)
    """Label for people: `a language model`, or the name of an agent without a model."""
    made: str
    """Date on which the recorded run began."""
    used: Used = Used()
    sia: str
    """Version of SIA."""
    code: str = ""
    """Digest of the code of the recorded run."""
    note: str = ""
    first: FirstHarness
    decisions: tuple[RecordedDecision, ...]

    def find(self, key: Key) -> RecordedDecision | None:
        """Find the decision of a generation and sibling; None where the file has none."""
        return next((decision for decision in self.decisions if decision.key == key), None)

    def harness(self, key: Key, first: Harness) -> Harness:
        """Derive the harness of a recorded node from the first harness.

        Raises:
            HarnessError: the decisions do not apply to this first harness.
        """
        if key == SEED:
            return first
        decision = self.find(key)
        assert decision is not None  # `_check` found the parents of all decisions.
        base = self.harness(decision.parent_key, first)
        return base if decision.failure or decision.lever not in REWRITES else decision.rewrite(base)

    @model_validator(mode="after")
    def _check(self) -> "Recording":
        keys = [decision.key for decision in self.decisions]
        twice = sorted({str(key) for key in keys if keys.count(key) > 1})
        if twice:
            raise ValueError(f"several decisions of {twice[0]}")
        for decision in self.decisions:
            if decision.generation > self.generations:
                raise ValueError(f"a decision of {decision.key}, but there are {self.generations} generations")
            if decision.sibling >= self.siblings:
                raise ValueError(f"a decision of {decision.key}, but there are {self.siblings} siblings")
            if decision.parent_key not in (SEED, *keys):
                raise ValueError(f"{decision.key} branches from {decision.parent_key}, which has no decision")
        if self.first.files is not None and _first(self.first.files).digest != self.first.harness:
            raise ValueError("the files of the first harness do not match the digest")
        return self


def read_recording(path: Path) -> Recording:
    """Read and check a file of recorded decisions.

    Raises:
        PolicyError: the file cannot be read, has another format, or is inconsistent.
    """
    try:
        data = path.read_bytes()
        found: Any = parse(data)
    except OSError as error:
        raise PolicyError(f"cannot be read: {error.strerror}", where=str(path), hint=_HINT) from error
    except UnfitError as error:
        raise PolicyError(f"holds no decisions: {error}", where=str(path), hint=_HINT) from error
    except ValueError as error:
        raise PolicyError(f"is not JSON: {error}", where=str(path), hint=_HINT) from error
    named = found.get("format") if isinstance(found, dict) else None
    if named != FORMAT:
        raise PolicyError(f"is of format {named!r}, not {FORMAT}", where=str(path), hint=_HINT)
    try:
        return Recording.model_validate_json(data)
    except ValidationError as error:
        hint = "take the file as it was written: export the run again with `sia export RUN DIR`"
        raise PolicyError(in_words(error, Recording), where=str(path), hint=hint) from error


def write_recording(recording: Recording) -> bytes:
    """Make the bytes of the file; equal recordings make equal bytes."""
    return (json.dumps(recording.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n").encode()


def _first(files: Mapping[str, str]) -> Harness:
    try:
        return Harness.from_files({name: text.encode() for name, text in files.items()}, where="first harness")
    except HarnessError as error:
        raise ValueError(str(error)) from error
