"""Plateau: a rule over the last gate results that decides if further gains can be expected.

The rule uses the tries since the last promotion, at most the last WINDOW. The gain of the next try is estimated by
their mean gain over their parents, with a one-sided upper bound from the gates' standard errors and a t-quantile. The
run is on a plateau after at least LEAST such tries, with each lever of the run among them, if the bound is below
`share` of the champion's score. A try without a child has a certain gain of 0; a void try is left out.

By the same rule over one lever's tries, `rules` changes to another lever.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, sqrt
from typing import Annotated

from pydantic import PlainSerializer
from scipy.special import stdtrit

from sia_core.domain.lineage import Node, champion
from sia_core.search.lineage import standard_error

WINDOW = 6
LEAST = 3
LEAST_OF_A_LEVER = 2


@dataclass(frozen=True)
class Plateau:
    """Upper bound of the expected gain of the next try, with its basis."""

    reached: bool
    tries: int
    """Number of tries since the last promotion, void ones left out, at most WINDOW."""
    mean: float
    """Mean gain of the tries."""
    upper: Annotated[float, PlainSerializer(lambda bound: bound if isfinite(bound) else None)]
    """One-sided upper bound of the tries' mean gain; infinite below two tries, which is null in JSON."""
    threshold: float
    untried: tuple[str, ...]
    """Levers of the run that were not pulled in these tries."""

    def __str__(self) -> str:
        said = (
            f"{self.tries} tries since the last promotion gained {self.mean:+.4f} on average, at most {self.upper:+.4f}"
        )
        if self.untried:
            said += f"; {' and '.join(self.untried)} not tried"
        return f"{said}; a plateau is below {self.threshold:+.4f}"


def find_plateau(
    nodes: Sequence[Node],
    levers: Sequence[str],
    *,
    share: float,
    confidence: float,
    floor: float = 0.0,
    least: int = LEAST,
) -> Plateau:
    """Test whether these levers have stopped paying.

    Args:
        nodes: the lineage.
        levers: levers that must have been tried, and whose tries count.
        share: share of the champion's score above `floor`, below which a gain is too small to continue.
        confidence: confidence of the upper bound, and of the gates' intervals.
        floor: lowest possible score.
        least: minimum number of tries of a plateau.
    """
    tries = [
        node for node in _since_promotion(nodes) if _pulls(node) & set(levers) and not (node.gate and node.gate.void)
    ]
    tries = tries[-WINDOW:]
    gains = [node.gate.gain.mean if node.gate else 0.0 for node in tries]
    errors = [standard_error(node.gate, confidence) if node.gate else 0.0 for node in tries]
    count = len(tries)
    mean = sum(gains) / count if count else 0.0
    upper = float("inf")
    if count > 1:
        upper = mean + float(stdtrit(count - 1, confidence)) * sqrt(sum(error**2 for error in errors)) / count
    threshold = share * max(_score(nodes) - floor, 0.0)
    pulled = set().union(*map(_pulls, tries)) if tries else set()
    untried = tuple(lever for lever in levers if lever not in pulled)
    reached = share > 0 and count >= least and not untried and upper <= threshold
    return Plateau(reached, count, mean, upper, threshold, untried)


def tired(nodes: Sequence[Node], lever: str, *, share: float, confidence: float, floor: float = 0.0) -> bool:
    """Return True if one lever by itself is on a plateau and another lever is due."""
    return find_plateau(nodes, [lever], share=share, confidence=confidence, floor=floor, least=LEAST_OF_A_LEVER).reached


def _since_promotion(nodes: Sequence[Node]) -> list[Node]:
    last = max(at for at, node in enumerate(nodes) if node.promoted)
    return [node for node in nodes[last + 1 :] if node.generation != nodes[last].generation or node.parent is None]


def _pulls(node: Node) -> set[str]:
    return {"harness", "weights"} if node.lever == "both" else {node.lever} & {"harness", "weights"}


def _score(nodes: Sequence[Node]) -> float:
    """Return the champion's last measured score: as a parent if there is one, else as a child."""
    leader = champion(list(nodes))
    later = [
        node.gate.parent.mean for node in nodes if node.parent == leader.index and node.gate and not node.gate.void
    ]
    if later:
        return later[-1]
    return leader.gate.child.mean if leader.gate else 0.0
