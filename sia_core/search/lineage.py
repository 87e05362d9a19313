"""Choose the node to branch from, and the node that a child is compared with.

All choices follow from the nodes of the lineage; no node is ever evicted.

A node's value is its gain over the seed, summed along its branch. Each gain is shrunk by its uncertainty (empirical
Bayes: tau^2 / (tau^2 + se^2), tau^2 by moments from all gains, weighted by their precision), so that one lucky gate
does not lead.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

from scipy.special import ndtri

from sia_core.domain.config import ParentRule
from sia_core.domain.errors import UsageError
from sia_core.domain.lineage import SEED_NODE, GateVerdict, Node, champion
from sia_core.domain.near import did_you_mean

EXPLORATION = 1.0
"""Weight of PUCT's second term."""
_LEAST_VARIANCE = 1e-8
"""Variance added to that of each gain, because an interval of width 0 is not certainty."""


@dataclass(frozen=True)
class Choice:
    """A node to branch from."""

    node: int
    reason: str


ParentPolicy = Callable[[Sequence[Node], float], Choice]
"""Proposes, at a confidence, the valid node that is executed and branched from; the agent may take another."""


def choose_best(nodes: Sequence[Node], confidence: float) -> Choice:  # noqa: ARG001
    """Choose the champion, the last promoted node."""
    return Choice(champion(list(nodes)).index, "the champion")


def choose_puct(nodes: Sequence[Node], confidence: float) -> Choice:
    """Choose the valid node with the highest score; the newer one where several have it."""
    scored = puct_scores(nodes, confidence)
    first = max(scored, key=lambda index: (scored[index], index))
    return Choice(first, f"puct {scored[first]:+.4f}, the highest of {len(scored)} nodes")


def puct_scores(nodes: Sequence[Node], confidence: float) -> dict[int, float]:
    """Score every valid node: value + EXPLORATION * scale * prior * sqrt(1 + T) / (1 + children).

    The prior is the share of a node's gate problems on which the node is on the Pareto front of those that played them;
    scale is the spread of values, T the number of children of all nodes. This is AlphaZero's rule as TTT-Discover uses
    it on solutions, with GEPA's per-problem front as prior.
    """
    valued = values(nodes, confidence)
    fronts = {index: _front(nodes, index) for index in valued}
    whole = sum(fronts.values()) or 1.0
    scale = max(valued.values()) - min(valued.values())
    children = {index: sum(node.parent == index for node in nodes) for index in valued}
    total = sqrt(1 + sum(children.values()))
    return {
        index: value + EXPLORATION * scale * fronts[index] / whole * total / (1 + children[index])
        for index, value in valued.items()
    }


POLICIES: Mapping[ParentRule, ParentPolicy] = {"best": choose_best, "puct": choose_puct}


def parent_policy(name: str) -> ParentPolicy:
    """Return the policy of a name.

    Raises:
        UsageError: unknown name.
    """
    for known, policy in POLICIES.items():
        if known == name:
            return policy
    near = did_you_mean(str(name), POLICIES)
    raise UsageError(f"unknown parent policy {name!r}{near}", where="--parent", hint=f"use {' or '.join(POLICIES)}")


def valid(nodes: Sequence[Node]) -> list[Node]:
    """Nodes to branch from: the seed, and every child with a gate verdict that is not void."""
    return [node for node in nodes if node.parent is None or (node.gate is not None and not node.gate.void)]


def values(nodes: Sequence[Node], confidence: float) -> dict[int, float]:
    """Shrunken gain over the seed of every valid node, in units of the score."""
    found = valid(nodes)
    gates = [node.gate for node in found if node.gate is not None]
    errors = {id(gate): standard_error(gate, confidence) for gate in gates}
    weights = [1 / (errors[id(gate)] ** 2 + _LEAST_VARIANCE) for gate in gates]
    excess = sum(weight * gate.gain.mean**2 - 1 for weight, gate in zip(weights, gates, strict=True))
    spread = max(excess / sum(weights), 0.0) if gates else 0.0
    held: dict[int, float] = {}
    for node in found:
        if node.gate is None or node.parent is None:
            held[node.index] = 0.0
            continue
        error = errors[id(node.gate)] ** 2
        shrunk = node.gate.gain.mean * (spread / (spread + error) if spread + error else 0.0)
        held[node.index] = held.get(node.parent, 0.0) + shrunk
    return held


def standard_error(gate: GateVerdict, confidence: float) -> float:
    """Return the standard error of the gain; computed from the gain's two-sided interval where no error is recorded."""
    return gate.error or float((gate.gain.high - gate.gain.low) / (2 * ndtri((1 + confidence) / 2)))


def rank(siblings: Sequence[Node]) -> list[Node]:
    """Order siblings as they join the lineage, by gain; the last promoted one is the champion.

    Among promoted siblings within the interval of the best one, the one that takes the fewest tokens comes last.
    """
    ranked = sorted(siblings, key=lambda node: (node.promoted, node.gate.gain.mean if node.gate else 0.0))
    best = ranked[-1].gate if ranked[-1].promoted else None
    if best is None:
        return ranked
    equal = [node for node in ranked if node.promoted and node.gate and node.gate.gain.mean >= best.gain.low]
    first = min(reversed(equal), key=lambda node: node.gate.token_ratio if node.gate else 1.0)
    return [node for node in ranked if node is not first] + [first]


def best_earlier(nodes: Sequence[Node]) -> Node:
    """Return the best confirmed node: the seed, until a champion is better on problems that are new to it."""
    best = nodes[SEED_NODE]
    for node in nodes:
        against = node.gate.against if node.gate else None
        if against is not None and against.node == best.index and against.parent_bound > 0 and node.parent is not None:
            best = nodes[node.parent]
    return best


def rival(nodes: Sequence[Node], parent: Node) -> Node | None:
    """Return the other node that a child of this parent is compared with: the champion, or the best earlier node."""
    leader = champion(list(nodes))
    other = leader if parent.candidate != leader.candidate else best_earlier(nodes)
    return None if other.candidate == parent.candidate else other


def _front(nodes: Sequence[Node], index: int) -> float:
    """Mean share of gate problems on which the other side was not better, as child and as parent."""
    shares = [node.gate.child_front for node in nodes if node.index == index and node.gate is not None]
    shares += [node.gate.parent_front for node in nodes if node.parent == index and node.gate and not node.gate.void]
    return sum(shares) / len(shares) if shares else 1.0
