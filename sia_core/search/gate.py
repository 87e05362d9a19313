"""The promotion gate: a child replaces its parent only if a paired test says it is better.

Parent and child play the same fresh problems with the same seeds, block by block. After each block the test of
`sequential` is read: better, hopeless, or go on; at the cap what is not decided is undecided. Ties keep the parent, and
whatever the verdict, the child stays in the lineage.

Two things are asked for beyond a gain above 0:

- Price. A child that takes more tokens than its parent must gain more than a margin (`gate_terms.margin`).
- Drift. Luck promotes again and again, and each lucky child would be the next one's yardstick. So a child of a parent
  that is not confirmed must also be shown to be no worse than the best earlier node (`lineage.rival`), within
  `tolerance` of that one's score, by the same test on the same problems. A child of a node that is not the champion
  must be shown to be better than the champion.

A look at which too many rollouts are unscored for infrastructure reasons decides nothing; if it stays so the trial is
void.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sia_core.domain.gate_terms import margin as asked_margin
from sia_core.domain.lineage import Against, GateVerdict, Outcome
from sia_core.domain.stats import Estimate, Gain, Scores, estimate
from sia_core.search.sequential import Reading, at_most, cut, read, subset_quantiles

MAX_UNSCORED = 0.2
"""A trial in which more rollouts than this share failed for infrastructure reasons is void."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Rules:
    """How a gate decides, the same for every look of one trial."""

    rollouts: int
    """Rollouts of each problem on each side."""
    confidence: float
    """1 - the error rate; 0.9 promotes one no-op in ten."""
    tries: int = 1
    """Children that are judged side by side; they share the error rate (Bonferroni)."""
    gain_per_token_doubling: float = 0.0
    """Share of the parent's score that a doubling of tokens has to bring."""
    tolerance: float = 0.0
    """Share of the best earlier node's score that a child may fall short of it."""
    floor: float = 0.0
    """Lowest score there is: shares are of what lies above it."""
    seed: int = 0
    """Seed of the bootstrap intervals around each side's mean."""

    @property
    def alpha(self) -> float:
        """Error rate of one child."""
        return (1 - self.confidence) / self.tries


@dataclass(frozen=True)
class Sides:
    """Scores of the rollouts so far, by problem; unscored ones are left out."""

    parent: Scores
    child: Scores
    best: Scores | None = None
    """Scores of the best earlier node, where the child has to be compared with that node."""
    best_node: int = 0
    incumbent: bool = False
    """True if the best earlier node is the champion, which has to be beaten, not equalled."""
    token_ratio: float = 1.0
    """Tokens of the child's rollouts over those of the parent's."""


def blocks_of(problems: Sequence[str]) -> list[list[str]]:
    """The problems of each look, in their order."""
    ends = cut(len(problems))
    return [list(problems[start:end]) for start, end in zip([0, *ends], ends, strict=False)]


def judge(
    sides: Sides, played: Sequence[Sequence[str]], planned: int, rules: Rules, *, intervals: bool = True
) -> GateVerdict:
    """Judge the child by the looks so far.

    Args:
        sides: scores of all problems played so far.
        played: problems of each look so far.
        planned: problems to be played at most.
        rules: as for the looks before.
        intervals: around each side's mean, which no decision rests on; simulations do without.
    """
    looks = _looks(sides.parent, sides.child, played, rules)
    ended = sum(map(len, played)) >= planned
    if not looks or looks[-1][1] < sum(map(len, played)):
        return _void(sides, played, planned, rules, ended)
    margin = asked_margin(rules.gain_per_token_doubling, _mean(sides.parent) - rules.floor, sides.token_ratio)
    reading = _read(looks, planned, rules.alpha, -margin, unseen(rules.floor, sides.parent, sides.child))
    outcome, reason = _outcome(reading, ended, rules.alpha, margin, sides.token_ratio)
    seen = np.concatenate([look for look, _ in looks])
    against = None
    if sides.best is not None:
        against, hopeless = _against(sides, played, planned, rules)
        if outcome == "promoted" and not against.passed:
            outcome = "behind" if ended or hopeless else "open"
            reason = f"{reason}; not shown to be as good as node {against.node}: gain over it {against.gain}"
    parent, child = (_side(side, rules, intervals and outcome != "open") for side in (sides.parent, sides.child))
    return GateVerdict(
        parent,
        child,
        _gain(looks, reading, rules.confidence, margin),
        outcome == "promoted",
        reason,
        outcome,
        looks=len(played),
        most_looks=len(cut(planned)),
        margin=margin,
        token_ratio=sides.token_ratio,
        error=float(seen.std(ddof=1) / np.sqrt(seen.size)),
        child_front=float((seen >= 0).mean()),
        parent_front=float((seen <= 0).mean()),
        against=against,
    )


def paired(before: Scores, after: Scores, problems: Sequence[str]) -> Floats:
    """After minus before: one difference a problem that both have scores of, shape (problems,)."""
    common = [problem for problem in problems if before.get(problem) and after.get(problem)]
    return np.array([np.mean(after[problem]) - np.mean(before[problem]) for problem in common], float)


def unseen(floor: float, *sides: Scores) -> float:
    """Give the size of a difference that may still come though none was seen.

    It is the standard deviation of scores spread evenly between the floor and the best one seen, and 0 where nothing
    lies above the floor.
    """
    best = max((max(found) for side in sides for found in side.values() if found), default=floor)
    return float((best - floor) / np.sqrt(12))


def most_gain(before: Scores, after: Scores, confidence: float, floor: float) -> tuple[float, float, int]:
    """Give mean gain, its one-sided upper limit and the number of problems that both sides have scores of.

    Raises:
        ValueError: no problem in common.
    """
    found = paired(before, after, sorted(before))
    if not found.size:
        raise ValueError("no problem has scores of both sides")
    return float(found.mean()), at_most(found, confidence, unseen(floor, before, after)), found.size


def sealed_gain(before: Scores, after: Scores, confidence: float) -> Gain:
    """The gain on problems that decide nothing: one look, two-sided limits at this confidence.

    Raises:
        ValueError: no problem in common.
    """
    found = paired(before, after, sorted(before))
    if not found.size:
        raise ValueError("no problem has scores of both sides")
    bound, low, high = subset_quantiles(found, [1 - confidence, (1 - confidence) / 2, (1 + confidence) / 2])
    return Gain(float(found.mean()), bound, low, high, found.size)


def _looks(before: Scores, after: Scores, played: Sequence[Sequence[str]], rules: Rules) -> list[tuple[Floats, int]]:
    """Differences of each look and the problems played by then; a look with too little is one with the next."""
    looks: list[tuple[Floats, int]] = []
    start = 0
    flat = [problem for block in played for problem in block]
    for end in np.cumsum([len(block) for block in played]):
        if _missing(before, after, flat[:end], rules.rollouts) <= MAX_UNSCORED:
            found = paired(before, after, flat[start:end])
            if sum(look.size for look, _ in looks) + found.size >= 2 and found.size:
                looks.append((found, int(end)))
                start = int(end)
    return looks


def _missing(before: Scores, after: Scores, problems: Sequence[str], rollouts: int) -> float:
    """Share of rollouts that are unscored, of the side that lacks more."""
    scored = min(sum(len(side.get(problem, ())) for problem in problems) for side in (before, after))
    return 1 - scored / (len(problems) * rollouts)


def _read(
    looks: Sequence[tuple[Floats, int]], planned: int, alpha: float, shift: float, unseen: float = 0.0
) -> Reading:
    return read([look + shift for look, _ in looks], [end / planned for _, end in looks], alpha, unseen)


def _outcome(reading: Reading, ended: bool, alpha: float, margin: float, token_ratio: float) -> tuple[Outcome, str]:
    asked = f" above {margin:+.4f}, for it takes {token_ratio:.1f} times the tokens" if margin else ""
    said = f"bound of the gain {reading.bound + margin:+.4f}{asked}; by chance as large: {reading.chance:.3f}"
    if reading.crossed:
        return "promoted", f"{said}, at most {reading.level:.3f} at this look ({alpha:.3g} over all)"
    if ended:
        return "undecided", f"{said}, more than the {reading.level:.3f} of the last look ({alpha:.3g} over all)"
    if reading.hopeless:
        return "futile", f"{said}; chance to decide by going on {reading.prospect:.3f}"
    return "open", said


def _gain(looks: Sequence[tuple[Floats, int]], reading: Reading, confidence: float, margin: float) -> Gain:
    seen = np.concatenate([look for look, _ in looks])
    low, high = subset_quantiles(seen, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Gain(float(seen.mean()), reading.bound + margin, low, high, seen.size)


def _mean(scores: Scores) -> float:
    return float(np.mean([np.mean(found) for found in scores.values() if found]))


def _side(scores: Scores, rules: Rules, interval: bool) -> Estimate:
    if interval:
        return estimate(scores, confidence=rules.confidence, seed=rules.seed)
    mean, sizes = _mean(scores), [len(found) for found in scores.values() if found]
    return Estimate(mean, mean, mean, len(sizes), sum(sizes))


def _against(sides: Sides, played: Sequence[Sequence[str]], planned: int, rules: Rules) -> tuple[Against, bool]:
    """The child beside the best earlier node, and whether it will surely stay behind.

    The parent is compared too: these problems are new to it, so it is confirmed here if anywhere.
    """
    assert sides.best is not None
    looks = _looks(sides.best, sides.child, played, rules)
    if not looks:
        return Against(sides.best_node, Gain(0.0, 0.0, 0.0, 0.0, 0), 0.0, passed=False, parent_bound=0.0), False
    margin = 0.0 if sides.incumbent else rules.tolerance * max(_mean(sides.best) - rules.floor, 0.0)
    reading = _read(looks, planned, rules.alpha, margin, unseen(rules.floor, sides.best, sides.child))
    parent = _looks(sides.best, sides.parent, played, rules)
    confirmed = _read(parent, planned, rules.alpha, 0.0).bound if parent else 0.0
    gain = _gain(looks, reading, rules.confidence, -margin)
    return Against(sides.best_node, gain, margin, reading.crossed, confirmed), reading.hopeless


def _void(sides: Sides, played: Sequence[Sequence[str]], planned: int, rules: Rules, ended: bool) -> GateVerdict:
    flat = [problem for block in played for problem in block]
    missing = _missing(sides.parent, sides.child, flat, rules.rollouts)
    reason = f"void: {missing:.0%} of the rollouts are unscored"
    nothing = {"none": [0.0]}
    parent, child = (
        estimate(side if any(side.values()) else nothing, confidence=rules.confidence, seed=rules.seed)
        for side in (sides.parent, sides.child)
    )
    found = paired(sides.parent, sides.child, flat)
    mean = float(found.mean()) if found.size else 0.0
    low, high = subset_quantiles(found, [0.05, 0.95]) if found.size else (0.0, 0.0)
    return GateVerdict(
        parent,
        child,
        Gain(mean, min(low, 0.0), low, high, found.size),
        promoted=False,
        reason=reason,
        outcome="void" if ended else "open",
        looks=len(played),
        most_looks=len(cut(planned)),
        token_ratio=sides.token_ratio,
    )


def growing(problems: Sequence[str]) -> Iterator[list[list[str]]]:
    """The looks one after the other: the blocks played by each."""
    blocks = blocks_of(problems)
    yield from (blocks[: look + 1] for look in range(len(blocks)))
