"""Lever memory: what each lever and kind of hypothesis has brought, as a posterior that forgets slowly.

Chance of promotion ~ Beta(1 + promoted, 1 + not promoted), each outcome weighed by DECAY to the power of its
age in generations. A child that is worse than its parent beyond the interval, though a gain was predicted,
counts as two misses.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from sia_core.generation import Node

DECAY = 0.9
UNPREDICTED = 2.0


@dataclass(frozen=True)
class Memory:
    """What is remembered of one lever and category."""

    lever: str
    category: str
    tried: int
    promoted: int
    chance: float
    """Posterior mean of the chance that the next try is promoted."""
    predicted: float
    """Mean predicted gain of the tries that reached the gate; 0 when none did."""
    observed: float
    """Mean gain at the gate of the same tries."""

    def __str__(self) -> str:
        return (
            f"{self.lever} {self.category or '-'} tried {self.tried}, promoted {self.promoted}, "
            f"chance of the next {self.chance:.2f}, predicted {self.predicted:+.4g}, observed {self.observed:+.4g}"
        )


def remember(nodes: Sequence[Node]) -> list[Memory]:
    """The memory of a lineage, by lever and category."""
    groups: dict[tuple[str, str], list[Node]] = defaultdict(list)
    for node in nodes:
        if node.decision is not None and node.lever in ("harness", "weights", "both"):
            groups[node.lever, node.decision.category].append(node)
    now = max((node.generation for node in nodes), default=0) + 1
    return [_memory(lever, category, tries, now) for (lever, category), tries in sorted(groups.items())]


def _memory(lever: str, category: str, tries: Sequence[Node], now: int) -> Memory:
    hits, misses = 1.0, 1.0
    for node in tries:
        weight = DECAY ** (now - node.generation)
        if node.promoted:
            hits += weight
        else:
            misses += weight * (UNPREDICTED if _unpredicted(node) else 1.0)
    gated = [(node.decision.predicted_gain, node.gate.gain.mean) for node in tries if node.gate and node.decision]
    count = max(len(gated), 1)
    return Memory(
        lever,
        category,
        len(tries),
        sum(node.promoted for node in tries),
        hits / (hits + misses),
        sum(predicted for predicted, _ in gated) / count,
        sum(observed for _, observed in gated) / count,
    )


def _unpredicted(node: Node) -> bool:
    assert node.decision is not None
    return node.gate is not None and node.gate.gain.high < 0 < node.decision.predicted_gain
