"""Compare two sides on the same problems: wins, losses, ties, and a table with the largest differences first."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from sia_core.agents.evidence import SAME_SCORE
from sia_core.agents.quote import elide
from sia_core.domain.stats import Scores

ROWS = 100
"""Most problems in a table."""


@dataclass(frozen=True)
class Pair:
    """A problem with scores of both sides, as means over rollouts."""

    problem: str
    before: float
    after: float

    @property
    def difference(self) -> float:
        """Return after minus before, exactly 0 if both are the same outcome."""
        found = self.after - self.before
        return 0.0 if abs(found) <= SAME_SCORE else found


@dataclass(frozen=True)
class Tally:
    """Problems on which `after` did better, worse, or the same."""

    wins: int
    losses: int
    ties: int

    def __str__(self) -> str:
        return f"better on {self.wins} problems, worse on {self.losses}, the same on {self.ties}"


def pair_up(before: Scores, after: Scores) -> list[Pair]:
    """Pair the problems with scores of both sides, by name."""
    common = sorted(problem for problem in before if before[problem] and after.get(problem))
    return [Pair(problem, fmean(before[problem]), fmean(after[problem])) for problem in common]


def tally(pairs: Sequence[Pair]) -> Tally:
    """Count wins, losses and ties."""
    wins, losses = sum(pair.difference > 0 for pair in pairs), sum(pair.difference < 0 for pair in pairs)
    return Tally(wins, losses, len(pairs) - wins - losses)


def pair_rows(pairs: Sequence[Pair]) -> list[tuple[str, str, str, str]]:
    """Format problem, both means and difference, largest differences first, at most ROWS rows."""
    ordered = sorted(pairs, key=lambda pair: (-abs(pair.difference), pair.problem))
    return [
        (elide(pair.problem, 120), f"{pair.before:.4f}", f"{pair.after:.4f}", f"{pair.difference:+.4f}")
        for pair in ordered[:ROWS]
    ]


def cut_note(count: int) -> str:
    """Return a note for the table's caption if not all problems are listed."""
    return f" (the {ROWS} largest differences of {count})" if count > ROWS else ""
