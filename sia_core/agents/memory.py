"""Lever memory: results of each lever and kind of hypothesis, and the accuracy of predictions.

Chance of promotion ~ Beta(1 + promoted, 1 + not promoted), each outcome weighted by DECAY to the power of its
age in generations. A child that is worse than its parent beyond the interval, despite a predicted gain,
counts as UNPREDICTED misses. Void trials do not count.

A change that was not promoted is rolled back and blocked: the same change is tried again only on another pair of
harness and adapter.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sia_core.domain.lineage import Decision, Node

DECAY = 0.9
UNPREDICTED = 2.0
LEVERS = ("harness", "weights", "both")


@dataclass(frozen=True)
class Memory:
    """Results of all tries of one lever and category."""

    lever: str
    category: str
    tried: int
    promoted: int
    chance: float
    """Posterior mean of the chance that the next try is promoted."""
    predicted: float
    """Mean predicted gain of all tries, including those that did not reach the gate."""
    observed: float | None
    """Mean gain of the tries that reached the gate; None when none did."""
    gated: int
    """Tries that reached the gate."""

    def __str__(self) -> str:
        return (
            f"{self.lever} {self.category or '-'} tried {self.tried}, promoted {self.promoted}, "
            f"chance of the next {self.chance:.2f}, predicted {self.predicted:+.4g}, observed {self._seen}"
        )

    @property
    def _seen(self) -> str:
        return (
            "nothing: none reached the gate" if self.observed is None else f"{self.observed:+.4g} at {self.gated} gates"
        )


@dataclass(frozen=True)
class Precision:
    """Counts of problems named in predictions and of those that came true, and counts for all played problems."""

    named: int
    right: int
    among: int
    """Problems that parent and child both played."""
    base: int
    """Problems that became better (for `fixes`) or worse (for `risks`), named or not."""

    def __str__(self) -> str:
        if not self.named:
            return "none named"
        base = f"of all problems {self.base / self.among:.0%}"
        return f"{self.right} of {self.named} ({self.right / self.named:.0%}; {base})"


@dataclass(frozen=True)
class Calibration:
    """Accuracy of an agent's predictions."""

    decided: int
    """Pulls that reached the gate."""
    predicted: float
    observed: float
    """Mean gains."""
    error: float
    """Mean absolute difference of the two."""
    in_range: tuple[int, int]
    """Number of observed gains within the predicted range, and number of ranges."""
    fixes: Precision
    """Problems predicted to become better."""
    risks: Precision
    """Problems predicted to be at risk of becoming worse."""

    def __str__(self) -> str:
        inside, given = self.in_range
        spans = f", {inside} of {given} within the predicted range" if given else ""
        return (
            f"gain predicted {self.predicted:+.4f}, observed {self.observed:+.4f} (mean of {self.decided}), "
            f"mean error {self.error:.4f}{spans}; fixes predicted {self.fixes}; risks predicted {self.risks}"
        )


def remember(nodes: Sequence[Node]) -> list[Memory]:
    """The memory of a lineage, by lever and category."""
    groups: dict[tuple[str, str], list[Node]] = defaultdict(list)
    for node in nodes:
        if node.decision is not None and node.lever in LEVERS and not _void(node):
            groups[node.lever, node.decision.category].append(node)
    now = max((node.generation for node in nodes), default=0) + 1
    return [_memory(lever, category, tries, now) for (lever, category), tries in sorted(groups.items())]


def chance(nodes: Sequence[Node], lever: str, category: str) -> float:
    """Posterior mean of the chance that a try is promoted; 1/2 without earlier tries."""
    return next((one.chance for one in remember(nodes) if (one.lever, one.category) == (lever, category)), 0.5)


def blocked(nodes: Sequence[Node], decision: Decision) -> str | None:
    """Return the reason if the same change of the same pair was tried and rolled back, else None."""
    if not 0 <= decision.parent < len(nodes):
        return None
    pair = nodes[decision.parent].candidate
    for node in nodes:
        if node.decision is None or node.parent is None or node.lever not in LEVERS or node.promoted or _void(node):
            continue
        if node.gate is not None and nodes[node.parent].candidate == pair and asks(node.decision) == asks(decision):
            return f"node {node.index} was this very change of the same pair and was rolled back: {node.gate.reason}"
    return None


def asks(decision: Decision) -> tuple[Any, ...]:
    """Return the changes that a decision asks of its parent, without the reasons."""
    return decision.lever, decision.edits, dict(decision.knobs), dict(decision.update)


def calibrate(nodes: Sequence[Node], agent: str | None = None) -> Calibration | None:
    """Compare the predictions of one agent or all with observed gains; None if nothing reached the gate."""
    made = [node for node in nodes if node.decision and node.gate and node.lever in LEVERS and not _void(node)]
    made = [node for node in made if node.decision and agent in (None, node.decision.agent)]
    pairs = [(node.decision.predicted_gain, node.gate.gain.mean) for node in made if node.decision and node.gate]
    if not pairs:
        return None
    spans = [
        node.decision.predicted_range[0] <= node.gate.gain.mean <= node.decision.predicted_range[1]
        for node in made
        if node.decision and node.gate and node.decision.predicted_range
    ]
    count = len(pairs)
    told = [node for node in nodes if node.decision and agent in (None, node.decision.agent)]
    return Calibration(
        count,
        sum(predicted for predicted, _ in pairs) / count,
        sum(observed for _, observed in pairs) / count,
        sum(abs(predicted - observed) for predicted, observed in pairs) / count,
        (sum(spans), len(spans)),
        _precision(told, "fixes"),
        _precision(told, "risks"),
    )


def _precision(nodes: Sequence[Node], kind: str) -> Precision:
    counts = [node.predicted for node in nodes if node.predicted.get(kind)]
    base = "better" if kind == "fixes" else "worse"
    return Precision(*(sum(found[name] for found in counts) for name in (kind, f"{kind}_right", "played", base)))


def _memory(lever: str, category: str, tries: Sequence[Node], now: int) -> Memory:
    hits, misses = 1.0, 1.0
    for node in tries:
        weight = DECAY ** (now - node.generation)
        if node.promoted:
            hits += weight
        else:
            misses += weight * (UNPREDICTED if _unpredicted(node) else 1.0)
    predicted = [node.decision.predicted_gain for node in tries if node.decision]
    gated = [node.gate.gain.mean for node in tries if node.gate]
    return Memory(
        lever,
        category,
        len(tries),
        sum(node.promoted for node in tries),
        hits / (hits + misses),
        sum(predicted) / max(len(predicted), 1),
        sum(gated) / len(gated) if gated else None,
        len(gated),
    )


def _void(node: Node) -> bool:
    return node.gate is not None and node.gate.void


def _unpredicted(node: Node) -> bool:
    assert node.decision is not None
    return node.gate is not None and node.gate.gain.high < 0 < node.decision.predicted_gain
