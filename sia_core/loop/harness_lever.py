"""Harness lever: apply a decision's edits and knobs, and validate the rewrite on the ladder."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sia_core.domain.candidate import Candidate
from sia_core.domain.errors import HarnessError
from sia_core.domain.harness import Harness
from sia_core.domain.lineage import Cost, Decision, Node
from sia_core.domain.patch import EditLimits, apply_edits
from sia_core.loop.ladder import VALIDATION, Climb, climb
from sia_core.loop.session import Session
from sia_core.record.generation import GenerationRecord


@dataclass(frozen=True)
class Pulled:
    """Result of pulling a lever: a child, or the failure that prevented one."""

    child: Candidate | None
    cost: Cost
    failure: str = ""
    predicted: Mapping[str, int] = field(default_factory=dict)
    """Counts of predicted and played problems, as in `Node.predicted`."""
    draft: str = ""
    """Digest of the harness that a rung rejected, as in `Node.draft`; empty otherwise."""


def rewrite(session: Session, decision: Decision, parent: Node) -> Harness:
    """Return the harness that a decision asks for: edits, then knobs.

    Raises:
        HarnessError: an edit or a knob cannot be applied, or exceeds the run's edit limits.
    """
    harness, config = session.run.harness(parent.candidate.harness), session.config
    child = apply_edits(harness, decision.edits).with_knobs(decision.knobs)
    EditLimits(config.edit_scope, config.max_edit_lines).check(harness.files, child.files)
    return child


def unwritable(session: Session, decision: Decision, parent: Node) -> list[str]:
    """List the reasons why a rewrite cannot be made."""
    try:
        rewritten = rewrite(session, decision, parent)
    except HarnessError as error:
        return [str(error)]
    return ["the rewrite changes nothing"] if rewritten.digest == parent.candidate.harness else []


def pull_harness(session: Session, generation: GenerationRecord, decision: Decision, parent: Node) -> Pulled:
    """Rewrite the harness and let it climb the validation ladder."""
    try:
        child = rewrite(session, decision, parent)
    except HarnessError as error:
        return Pulled(None, Cost(), f"static: {error}")
    report = climb(Climb(session, generation, decision, parent, child))
    candidate = None if report.failure else Candidate(child.digest, parent.candidate.adapter)
    last = report.rungs[-1]
    predicted = {name: int(last.metrics[name]) for name in _PREDICTED if name in last.metrics}
    # The analyze phase has already counted the cost of the validation rungs.
    cost = sum((rung.cost for rung in report.rungs if rung.rung not in VALIDATION), Cost())
    return Pulled(candidate, cost, report.failure, predicted, "" if candidate else child.digest)


_PREDICTED = ("played", "better", "worse", "fixes", "fixes_right", "risks", "risks_right")
