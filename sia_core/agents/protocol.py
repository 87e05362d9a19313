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
    """Everything that an agent is given before it reads. Gate and test problems are never included."""

    evidence: Evidence
    nodes: Sequence[Node]
    """The lineage as read from MLflow, seed first."""
    harness: Harness
    """Harness of the node that was executed."""
    levers: tuple[Lever, ...]
    costs: Mapping[Lever, int]
    """Rollouts that pulling a lever takes, gate included."""
    refused: tuple[str, ...] = ()
    """Reasons why earlier decisions of this generation were refused."""
    refused_levers: tuple[str, ...] = ()
    fallen: tuple[Decision, ...] = ()
    """Decisions of this generation whose rewrites a rung of the validation rejected."""
    edit_limits: str = ""
    """Limits of a rewrite, in words; empty where nothing is forbidden."""
    parent: int | None = None
    """Node that the parent policy proposed and that was executed; None for the champion."""
    tired: tuple[str, ...] = ()
    """Levers that are each on a plateau."""
    siblings: tuple[Decision, ...] = ()
    """Decisions already made in this generation, which the agent should not repeat."""
    generation: int = 1
    seed: int = 0
    """Seed of the agent's own randomness."""
    task: str = ""
    """The task's description for agents."""
    metric: str = ""
    """Meaning of the score."""
    problems: Sequence[str] = ()
    """Ids of the training problems that were executed."""
    updates: Mapping[str, str] = field(default_factory=dict)
    """Settings that a weight update may propose: name -> range and meaning."""
    reference: str = ""
    """The page of `agents.reference`."""
    generations: int = 1
    """Generations of the run."""
    spending: str = ""
    """The run's budget and time, spent and left, in words, at the beginning of this decision."""
    metrics: Mapping[str, str] = field(default_factory=dict)
    """Meaning of the verifier's metrics, from the task."""
    suggested: str = ""
    """The algorithm that fits the executed rollouts, or why none does, with the reason."""
    gate: GateTerms | None = None
    """Terms of the comparison of a child with its parent; None without a gate."""

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
        """Make one decision from `situation` and `source` alone.

        Raises:
            NoDecisionError: the agent made no decision.
        """


class NoDecisionError(Exception):
    """An agent made no decision, for the reason in the message. Another agent decides, and the record says so."""
