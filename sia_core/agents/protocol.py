"""The one interface of every Feedback-Agent."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from sia_core.config import Lever
from sia_core.generation import Decision, Evidence, Node
from sia_core.harness import Harness


@dataclass(frozen=True)
class Situation:
    """All that an agent is told. Gate and test problems are never part of it."""

    evidence: Evidence
    nodes: Sequence[Node]
    """The lineage as read from MLflow, seed first."""
    harness: Harness
    """Harness of the node that was executed."""
    levers: tuple[Lever, ...]
    costs: Mapping[Lever, int]
    """Rollouts that pulling a lever takes, gate included."""
    refused: tuple[str, ...] = ()
    """Why earlier decisions of this generation were refused."""
    refused_levers: tuple[Lever, ...] = ()


class FeedbackAgent(Protocol):
    """Chooses the branch to continue from and the lever to pull."""

    spec: str

    def decide(self, situation: Situation) -> Decision:
        """One decision, resting on what is in `situation` alone."""
        ...
