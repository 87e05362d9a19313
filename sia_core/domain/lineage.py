"""The nouns of the loop: evidence, decision, node.

They are frozen JSON data: what one phase of a generation writes to the record and the next
phase, an agent, a report or a resumed run reads back.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from sia_core.domain.candidate import Candidate
from sia_core.domain.config import Lever
from sia_core.domain.harness import KnobValue
from sia_core.domain.patch import Edit
from sia_core.domain.stats import Estimate, Gain
from sia_core.domain.usage import Amounts

SEED_NODE = 0
"""Lineage index of the seed candidate."""


@dataclass(frozen=True)
class Evidence:
    """Statistics that are computed from a generation's rollouts before any agent is asked."""

    candidate: Candidate
    """The pair the rollouts came from; evidence about any other pair is stale."""
    score: Estimate
    best_of: float
    """Mean over problems of the best score in the group: what the pair reaches at k tries."""
    group_size: int
    mixed: float
    """Share of groups with more than one outcome."""
    constant: float
    """Share of groups with one outcome: they carry no signal for a weight update."""
    failures: Mapping[str, float]
    """Failure kind -> share of rollouts."""
    unscored: int
    trainable: bool
    """True if every scored rollout that did not fail has token ids and logprobs."""
    examples: tuple[str, ...]
    """Unit keys worth reading, failures first."""


@dataclass(frozen=True)
class Decision:
    """Decision of the Feedback-Agent: the change, the reasons, and the predicted effects."""

    lever: Lever | Literal["both", "none", "stop"]
    """`both` rewrites the harness, then trains the policy under it; the pair is gated."""
    parent: int
    """Lineage node to branch from."""
    reason: str
    """The diagnosis."""
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
    """Lever weights: settings of the update, by name (`weights.proposal.SETTINGS`); empty for the task's own."""
    hypothesis: str = ""
    """Why the change is expected to help."""
    category: str = ""
    """Kind of hypothesis; the lever memory counts by it."""
    fixes: tuple[str, ...] = ()
    """Problems that are predicted to be solved better."""
    risks: tuple[str, ...] = ()
    """Problems that may become worse."""
    falsifier: str = ""
    """Observation that would show that the hypothesis is wrong."""
    memo: str = ""
    """A note of the agent to itself, shown before its next decision."""
    cites: tuple[str, ...] = ()
    """Unit keys of the rollouts that the decision rests on."""
    refused: tuple[str, ...] = ()
    """Reasons for which earlier decisions of this generation were refused."""
    instead_of: str = ""
    """Spec of the agent that was asked and came to no decision; empty where `agent` is the one that was asked. The
    reason is the first of `refused`."""


Outcome = Literal["promoted", "undecided", "futile", "behind", "void", "open"]
"""`open` is never recorded: the gate goes on. `behind`: better than the parent, not shown as good as the best node."""


@dataclass(frozen=True)
class Against:
    """A child beside the best earlier node, on the problems of its gate."""

    node: int
    gain: Gain
    """Gain of the child over the best earlier node."""
    margin: float
    """Amount by which the child's score may fall short of the best earlier node's."""
    passed: bool
    parent_bound: float
    """Bound of parent minus that node: above 0 the parent is confirmed, and the best earlier node from then on."""


@dataclass(frozen=True)
class GateVerdict:
    """The promotion gate's answer for one child."""

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
    """Share on which the parent scored at least as well as the child."""
    against: Against | None = None
    """None where the parent itself is the best earlier node, or the child was not better than it."""

    @property
    def void(self) -> bool:
        """True if nothing can be concluded."""
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
    """One line: why it was rejected, or what passed."""
    details: tuple[str, ...] = ()
    """Everything else worth knowing, warnings among it."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    cost: Cost = Cost()
    """Rollouts with the run's policy that no other phase has paid for."""


@dataclass(frozen=True)
class LadderReport:
    """How far a rewrite climbed: the rungs it was put to, cheapest first; only the last can have failed."""

    child: str
    """Digest of the rewritten harness."""
    rungs: tuple[RungResult, ...]

    @property
    def failure(self) -> str:
        """`RUNG: reason` of the rung that rejected it; empty when none did."""
        return next((f"{rung.rung}: {rung.reason}" for rung in self.rungs if not rung.passed), "")

    @property
    def faults(self) -> tuple[str, ...]:
        """Everything that the rejecting rung found, `RUNG: reason` first; empty when none rejected."""
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
    """A rewritten harness that an agent played or submitted in a generation, whether or not a child came of it."""

    harness: str
    """Digest."""
    parent: int | None
    """Lineage node whose adapter it was played with and with which it was compared; None for a first harness."""
    origin: Literal["tried", "submitted"]
    failure: str = ""
    """`RUNG: reason` of the rung that rejected it; empty when none did."""
    hypothesis: str = ""
    category: str = ""
    predicted_gain: float = 0.0
    cost: Cost = Cost()
    """Rollouts that no other phase has paid for."""
    generation: int = 0

    @property
    def name(self) -> str:
        """The name by which agents read it and edit from it."""
        return f"draft {self.harness[:DRAFT_ID]}"


@dataclass(frozen=True)
class Node:
    """One point of the lineage: a candidate and how it came to be. Nodes are never evicted."""

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
    """Why no child came of it: the validation ladder or the trainer said no."""
    generation: int = 0
    """The generation that made it; several siblings may be of one."""
    predicted: Mapping[str, int] = field(default_factory=dict)
    """Problems that the decision named and the minibatch played: `fixes`, `risks`, how many of them were `fixes_right`,
    `risks_right`, and of all `played` how many became `better`, `worse`. Empty where none was played."""
    draft: str = ""
    """Digest of the harness that its decision asked for, where a rung rejected it; empty otherwise."""
    sibling: int = 0
    """Number of its decision among those of the generation."""

    @property
    def harness(self) -> str:
        """Digest of the harness that agents read under this node's number: of the draft where there is one."""
        return self.draft or self.candidate.harness


def stand_ins(nodes: Sequence[Node]) -> list[Node]:
    """Nodes that another agent decided than the one that was asked."""
    return [node for node in nodes if node.decision is not None and node.decision.instead_of]


def champion(nodes: list[Node]) -> Node:
    """The last promoted node; the seed counts as promoted."""
    return next(node for node in reversed(nodes) if node.promoted)
