"""Define the nouns of the loop: evidence, decision, node.

They are frozen JSON data: a phase of a generation writes them to the record, and the next phase, an agent, a report or
a resumed run reads them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from sia_core.domain.candidate import Candidate
from sia_core.domain.config import Lever
from sia_core.domain.harness import KnobValue
from sia_core.domain.patch import Edit
from sia_core.domain.replies import Replies
from sia_core.domain.stats import Estimate, Gain
from sia_core.domain.usage import Amounts

SEED_NODE = 0
"""Lineage index of the seed candidate."""


@dataclass(frozen=True)
class Evidence:
    """Statistics of a generation's rollouts, computed before any agent is asked."""

    candidate: Candidate
    """Candidate of the rollouts; evidence about any other candidate is stale."""
    score: Estimate
    best_of: float
    """Mean over problems of the best score in the group, which the candidate reaches with k tries."""
    group_size: int
    mixed: float
    """Share of groups with more than one outcome."""
    constant: float
    """Share of groups with one outcome, which carry no signal for a weight update."""
    failures: Mapping[str, float]
    """Share of rollouts by kind of failure."""
    unscored: int
    trainable: bool
    """True if every scored rollout that did not fail has token ids and logprobs."""
    examples: tuple[str, ...]
    """Unit keys of rollouts worth reading, failures first."""
    replies: Replies = field(default_factory=Replies)
    """Counts of the policy's replies, with those that were cut, empty or refused."""


@dataclass(frozen=True)
class Decision:
    """Decision of the Feedback-Agent: the change, the reasons, and the predicted effects."""

    lever: Lever | Literal["both", "none", "stop"]
    """`both` rewrites the harness, then trains the policy under it; the pair is gated."""
    parent: int
    """Lineage node to branch from."""
    reason: str
    """Diagnosis of the agent."""
    parent_reason: str = field(default="", kw_only=True)
    """Reason why the decision branches from another node than the proposed one."""
    agent: str
    """Spec of the agent that made the decision."""
    predicted_gain: float = 0.0
    """Gain that the agent predicts, in units of the gate's score."""
    predicted_range: tuple[float, float] | None = None
    """Low and high end of the range in which the agent expects the gain; None if not given."""
    knobs: Mapping[str, KnobValue] = field(default_factory=dict)
    """Lever harness: knob -> new value."""
    edits: tuple[Edit, ...] = ()
    """Lever harness: changes of files, applied before the knobs."""
    update: Mapping[str, Any] = field(default_factory=dict)
    """Lever weights: settings of the update, by name (`weights.proposal.SETTINGS`); empty for the task's defaults."""
    hypothesis: str = ""
    """Reason why the change is expected to help."""
    category: str = ""
    """Kind of hypothesis, by which the lever memory counts."""
    fixes: tuple[str, ...] = ()
    """Problems that are predicted to be solved better."""
    risks: tuple[str, ...] = ()
    """Problems that may become worse."""
    falsifier: str = ""
    """Observation that would show that the hypothesis is wrong."""
    memo: str = ""
    """Note of the agent to itself, shown before its next decision."""
    cites: tuple[str, ...] = ()
    """Unit keys of the rollouts that the decision rests on."""
    refused: tuple[str, ...] = ()
    """Reasons for which earlier decisions of this generation were refused."""
    instead_of: str = ""
    """Spec of the agent that was asked and came to no decision; empty if it is `agent`. The reason is the first of
    `refused`."""


Outcome = Literal["promoted", "undecided", "futile", "behind", "void", "open"]
"""`open` (the gate continues) is never recorded; `behind`: better than the parent, not shown as good as the best."""


@dataclass(frozen=True)
class Against:
    """A comparison of a child with the best earlier node, on the problems of the child's gate."""

    node: int
    gain: Gain
    """Gain of the child over the best earlier node."""
    margin: float
    """Amount by which the child's score may fall short of the best earlier node's."""
    passed: bool
    parent_bound: float
    """Bound of parent minus that node; above 0 the parent is confirmed and becomes the best earlier node."""


@dataclass(frozen=True)
class GateVerdict:
    """Verdict of the promotion gate on a child."""

    parent: Estimate
    child: Estimate
    gain: Gain
    promoted: bool
    reason: str
    outcome: Outcome = "undecided"
    looks: int = 1
    most_looks: int = 1
    margin: float = 0.0
    """Gain that the child had to exceed because it takes more tokens than the parent."""
    token_ratio: float = 1.0
    """Tokens of the child's rollouts over the parent's."""
    error: float = 0.0
    """Standard error of the gain, over problems."""
    child_front: float = 0.0
    """Share of the problems on which the child scored at least as well as its parent."""
    parent_front: float = 0.0
    """Share of the problems on which the parent scored at least as well as the child."""
    against: Against | None = None
    """None if the parent is the best earlier node, or the child was not better than the parent."""

    @property
    def void(self) -> bool:
        """True if the gate allows no conclusion."""
        return self.outcome == "void"


@dataclass(frozen=True)
class Cost(Amounts):
    """Rollouts of a node, a draft or a generation, with their tokens and seconds.

    A cost is summed up from recorded rollouts, to compare candidates and arms. The run's spending is
    `domain.usage.Usage`: the ledger counts it as work is done, by agents and in the sealed test too.
    """

    rollouts: int = 0
    tokens: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class RungResult:
    """Result of one rung of the validation ladder for a rewritten harness."""

    rung: str
    passed: bool
    reason: str
    """Reason for the rejection, or what passed, in one line."""
    details: tuple[str, ...] = ()
    """Further details, including warnings."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    cost: Cost = Cost()
    """Rollouts with the run's policy that no other phase has paid for."""


@dataclass(frozen=True)
class LadderReport:
    """Rungs that a rewrite climbed, cheapest first; only the last can have failed."""

    child: str
    """Digest of the rewritten harness."""
    rungs: tuple[RungResult, ...]

    @property
    def failure(self) -> str:
        """`RUNG: reason` of the rejecting rung; empty if none rejected."""
        return next((f"{rung.rung}: {rung.reason}" for rung in self.rungs if not rung.passed), "")

    @property
    def faults(self) -> tuple[str, ...]:
        """All faults that the rejecting rung found, `RUNG: reason` first; empty if none rejected."""
        rejecting = next((rung for rung in self.rungs if not rung.passed), None)
        return () if rejecting is None else (self.failure, *rejecting.details)

    @property
    def cost(self) -> Cost:
        """Cost of all rungs together."""
        return sum((rung.cost for rung in self.rungs), Cost())


DRAFT_ID = 12
"""Characters of a harness's digest by which agents name a draft."""


@dataclass(frozen=True)
class Draft:
    """A rewritten harness that an agent tried or submitted in a generation, with or without a resulting child."""

    harness: str
    """Digest of the rewritten harness."""
    parent: int | None
    """Lineage node whose adapter the draft used and with which it was compared; None for a first harness."""
    origin: Literal["tried", "submitted"]
    failure: str = ""
    """`RUNG: reason` of the rejecting rung; empty if none rejected."""
    hypothesis: str = ""
    category: str = ""
    predicted_gain: float = 0.0
    cost: Cost = Cost()
    """Rollouts that no other phase has paid for."""
    generation: int = 0

    @property
    def name(self) -> str:
        """Name by which agents read the draft and edit from it."""
        return f"draft {self.harness[:DRAFT_ID]}"


@dataclass(frozen=True)
class Node:
    """A node of the lineage: a candidate and its origin. Nodes are never evicted."""

    index: int
    parent: int | None
    candidate: Candidate
    lever: str
    """`seed`, `harness`, `weights`, `none` or `stop`."""
    promoted: bool
    gate: GateVerdict | None = None
    decision: Decision | None = None
    cost: Cost = Cost()
    failure: str = ""
    """Reason why there is no child: a rejection by the validation ladder or a failure of the trainer."""
    generation: int = 0
    """Generation that made the node; siblings have the same."""
    predicted: Mapping[str, int] = field(default_factory=dict)
    """Counts of problems: `fixes` and `risks` named by the decision and played by the minibatch, `fixes_right` and
    `risks_right` of them, all `played`, and how many of these became `better` or `worse`. Empty if none was played."""
    draft: str = ""
    """Digest of the harness that the decision asked for, if a rung rejected it; empty otherwise."""
    sibling: int = 0
    """Number of the node's decision in its generation."""

    @property
    def harness(self) -> str:
        """Digest of the harness that agents read under this node's number: the draft if there is one."""
        return self.draft or self.candidate.harness


def stand_ins(nodes: Sequence[Node]) -> list[Node]:
    """Return the nodes that `rules` decided in place of the agent."""
    return [node for node in nodes if node.decision is not None and node.decision.instead_of]


def champion(nodes: list[Node]) -> Node:
    """Return the last promoted node; the seed counts as promoted."""
    return next(node for node in reversed(nodes) if node.promoted)
