"""The outcome of pulling a lever."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sia_core.domain.candidate import Candidate
from sia_core.domain.lineage import Cost


@dataclass(frozen=True)
class Pulled:
    """What pulling a lever gave: a child, or the failure that prevented one."""

    child: Candidate | None
    cost: Cost
    failure: str = ""
    predicted: Mapping[str, int] = field(default_factory=dict)
    """As `Node.predicted`."""
    draft: str = ""
    """As `Node.draft`."""
