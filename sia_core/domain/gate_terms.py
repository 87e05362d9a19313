"""Describe the terms of a promotion gate for the agent, before it decides.

Gate and terms share one `margin`, which a child with more tokens has to exceed.
"""

from dataclasses import dataclass
from math import isinf, log2

COUNTED_TOKEN_RATIO = 1.5
"""Ratio of tokens, child over parent, from which the margin applies; smaller ratios are noise."""
RATIOS = (1.5, 2.0, 4.0)
"""Ratios of tokens whose margins are listed."""


def margin(gain_per_token_doubling: float, level: float, token_ratio: float) -> float:
    """Compute the gain that a child must exceed for its tokens.

    Args:
        gain_per_token_doubling: share of the parent's score for each doubling of tokens.
        level: the parent's score above the lowest possible.
        token_ratio: tokens of the child over the parent's.
    """
    return gain_per_token_doubling * max(level, 0.0) * log2(token_ratio) if token_ratio >= COUNTED_TOKEN_RATIO else 0.0


@dataclass(frozen=True)
class GateTerms:
    """Terms of the next comparison of child and parent, and the gain that the gate can detect."""

    problems: int
    """Planned problems; fewer are played if an earlier look decides."""
    rollouts: int
    """Rollouts of each problem and side."""
    looks: int
    confidence: float
    tries: int
    """Siblings that share the error rate."""
    level: float
    """Score of the executed node above the lowest possible; price and tolerance are shares of it."""
    gain_per_token_doubling: float
    """Share of the level for each doubling of tokens."""
    tolerance: float
    """Share of the level that a child may fall short of the best earlier node."""
    detectable: float | None
    """True gain that is promoted with 80 % probability at equal tokens; infinite if no gain is, None if unknown."""

    def margin(self, token_ratio: float) -> float:
        """Compute the gain that a child must exceed at this ratio of tokens."""
        return margin(self.gain_per_token_doubling, self.level, token_ratio)

    def describe(self) -> str:
        """List the terms, one sentence per line."""
        return "\n".join([self._plan(), self._power(), self._price(), self._drift()])

    __str__ = describe

    def _plan(self) -> str:
        shared = f", shared by {self.tries} siblings" if self.tries > 1 else ""
        return (
            f"The gate plays {self.problems} fresh problems x {self.rollouts} rollouts a side, with up to {self.looks} "
            f"looks, at {self.confidence:.0%} confidence{shared}; ties keep the parent."
        )

    def _power(self) -> str:
        if self.detectable is None:
            return "The gain this gate can detect is unknown: no rollout has scored above the lowest score yet."
        if isinf(self.detectable):
            return "This gate has too few problems to promote any gain with 80 % probability, however large."
        return (
            f"A true gain of about {self.detectable:+.3f} is promoted with 80 % probability at equal tokens "
            "(estimated from the spread of scores so far); a smaller one is often not shown."
        )

    def _price(self) -> str:
        if not self.gain_per_token_doubling:
            return "More tokens cost nothing at the gate."
        asked = ", ".join(f"{ratio:g}x -> {self.margin(ratio):+.4f}" for ratio in RATIOS)
        return (
            f"From {COUNTED_TOKEN_RATIO:g} times the parent's tokens the gain must exceed a margin, "
            f"{self.gain_per_token_doubling:.1%} of the score for each doubling: {asked}. Add it to the gain above."
        )

    def _drift(self) -> str:
        most = self.tolerance * max(self.level, 0.0)
        return (
            f"A promoted child may fall short of the best earlier node by {most:.4f} at most; a child of another node "
            "than the champion must beat the champion."
        )
