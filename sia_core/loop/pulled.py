"""Describe the outcome of pulling a lever."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sia_core.domain.candidate import Candidate
from sia_core.domain.lineage import Cost


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
