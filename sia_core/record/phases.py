"""Define the stored results of complete phases: one model a phase, written and read whole.

A phase is complete once its tag `sia.phase.NAME` holds the digest of `phases/NAME.json`. A file that does not fit its
model was written by another version and is refused.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from sia_core.domain.candidate import Candidate
from sia_core.domain.json_data import Strict
from sia_core.domain.lineage import Cost, Decision, Evidence, Node
from sia_core.domain.plan import Shape
from sia_core.domain.replies import Replies
from sia_core.domain.stats import Estimate, Gain

Figures = tuple[tuple[str, float | int | str], ...]
"""Names and values; pairs, because stored objects lose their order."""


class Phase(Strict):
    """The stored result of a phase."""

    NAME: ClassVar[str]


class StartDone(Phase):
    """The seed of the lineage is there."""

    NAME = "start"

    node: Node


class ExecuteDone(Phase):
    """A node was rolled out."""

    NAME = "execute"

    node: int
    """Node that was executed."""
    why: str
    cost: Cost
    shape: Shape


class AnalyzeDone(Phase):
    """The evidence is computed, and the decisions are made, one for each sibling."""

    NAME = "analyze"

    evidence: Evidence
    decisions: tuple[Decision, ...]
    cost: Cost


class ApprovalDone(Phase):
    """Your answer to the decisions."""

    NAME = "approve"

    approved: bool
    note: str


class ImproveDone(Phase):
    """The levers were pulled."""

    NAME = "improve"

    nodes: tuple[Node, ...]


class StopDone(Phase):
    """The run has no further generations."""

    NAME = "stop"

    rule: str
    """Rule that ended the run: `plateau`, `budget`, `agent` or `generations`."""
    reason: str
    plateau: Mapping[str, Any]
    """Numbers that `search.plateau` computed."""


class SealedDone(Phase):
    """The sealed test was run."""

    NAME = "test"

    node: int
    """Node of the final candidate."""
    candidate: Candidate
    final: Estimate
    seed: Estimate
    gain: Gain
    report: Mapping[str, Figures] = {}
    """Figures of the task itself, by side: `final`, `seed`."""
    replies: Replies = Replies()
    """Counts of the final candidate's replies."""
