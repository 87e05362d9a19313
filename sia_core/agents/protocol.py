"""The one interface of every Feedback-Agent."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from sia_core.agents.source import Source
from sia_core.domain.config import Lever
from sia_core.domain.gate_terms import GateTerms
from sia_core.domain.harness import Harness
from sia_core.domain.lineage import Decision, Evidence, Node, champion


@dataclass(frozen=True)
class Situation:
    """All that an agent is told before it reads. Gate and test problems are never part of it."""

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
    refused_levers: tuple[str, ...] = ()
    fallen: tuple[Decision, ...] = ()
    """Decisions of this generation whose rewrites a rung of the validation rejected."""
    edit_limits: str = ""
    """How far a rewrite may go, in words; empty where nothing is forbidden."""
    parent: int | None = None
    """The node that the parent policy proposes and that was executed; None: the champion."""
    tired: tuple[str, ...] = ()
    """Levers that are on a plateau by themselves."""
    siblings: tuple[Decision, ...] = ()
    """Decisions of this generation that are made already: another one is wanted."""
    generation: int = 1
    seed: int = 0
    """An agent's own randomness derives from it."""
    task: str = ""
    """The task's description, as its author wrote it for agents."""
    metric: str = ""
    """Meaning of the score."""
    problems: Sequence[str] = ()
    """Ids of the training problems that were executed."""
    updates: Mapping[str, str] = field(default_factory=dict)
    """Settings of a weight update that may be proposed: name -> range and meaning."""
    reference: str = ""
    """The page of `agents.reference`."""
    generations: int = 1
    """Generations of the run."""
    spending: str = ""
    """The run's budget and time, spent and left, in words, as of the beginning of this decision."""
    metrics: Mapping[str, str] = field(default_factory=dict)
    """Meaning of the verifier's metrics, as the task says it."""
    suggested: str = ""
    """The algorithm that fits the executed rollouts and why, or why none does."""
    gate: GateTerms | None = None
    """How a child will be compared with its parent; None where nothing is gated."""

    @property
    def executed(self) -> int:
        """Index of the newest node of the candidate that was executed."""
        return next(node.index for node in reversed(self.nodes) if node.candidate == self.evidence.candidate)

    @property
    def proposed(self) -> Node:
        """The node that the parent policy proposes, or the champion."""
        return champion(list(self.nodes)) if self.parent is None else self.nodes[self.parent]


class FeedbackAgent(Protocol):
    """Chooses the branch to continue from and the lever to pull."""

    spec: str

    def decide(self, situation: Situation, source: Source) -> Decision:
        """One decision, resting on what is in `situation` and `source` alone.

        Raises:
            NoDecisionError: the agent came to none.
        """


class NoDecisionError(Exception):
    """An agent that comes to no decision, and why. Another one decides, and the record says so."""
