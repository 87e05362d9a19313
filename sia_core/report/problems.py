"""Two sides on the same problems: the tally of wins, losses and ties, and a table, the largest differences first."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from sia_core.agents.evidence import SAME_SCORE
from sia_core.agents.quote import elide
from sia_core.domain.stats import Scores

ROWS = 100
"""Problems a table lists."""


@dataclass(frozen=True)
class Pair:
    """One problem that both sides have scores of: means over rollouts."""

    problem: str
    before: float
    after: float

    @property
    def difference(self) -> float:
        """After minus before; exactly 0 where the two are one outcome."""
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
    """The problems with scores of both sides, by name."""
    common = sorted(problem for problem in before if before[problem] and after.get(problem))
    return [Pair(problem, fmean(before[problem]), fmean(after[problem])) for problem in common]


def tally(pairs: Sequence[Pair]) -> Tally:
    """Count them."""
    wins, losses = sum(pair.difference > 0 for pair in pairs), sum(pair.difference < 0 for pair in pairs)
    return Tally(wins, losses, len(pairs) - wins - losses)


def pair_rows(pairs: Sequence[Pair]) -> list[tuple[str, str, str, str]]:
    """Problem, both means and the difference, the largest differences first, at most ROWS."""
    ordered = sorted(pairs, key=lambda pair: (-abs(pair.difference), pair.problem))
    return [
        (elide(pair.problem, 120), f"{pair.before:.4f}", f"{pair.after:.4f}", f"{pair.difference:+.4f}")
        for pair in ordered[:ROWS]
    ]


def cut_note(count: int) -> str:
    """Return the note that a table's caption adds where not all problems are listed; else an empty text."""
    return f" (the {ROWS} largest differences of {count})" if count > ROWS else ""
