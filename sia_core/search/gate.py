"""The promotion gate: a child replaces its parent only if a paired test says it is better.

Parent and child play the same fresh problems with the same seeds, block by block. After each block, the test of
`sequential` says better, hopeless or continue; without a decision at the last block, the outcome is undecided. Ties
keep the parent. The child stays in the lineage with any verdict.

A promotion needs more than a gain above 0:

- Price. A child that takes more tokens than its parent must gain more than a margin (`gate_terms.margin`).
- Drift. Promotions by luck would add up, because each lucky child is the parent of the next. So a child of a parent
  that is not confirmed must also be shown to be no worse than the best earlier node (`lineage.rival`), within
  `tolerance` of that node's score, by the same test on the same problems. A child of a node that is not the champion
  must be shown to be better than the champion.

A look decides nothing while too many rollouts are unscored for infrastructure reasons; if this is so at the last look,
the trial is void.
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
"""Share of rollouts with infrastructure failures above which a trial is void."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Rules:
    """Settings of a gate, equal for every look of one trial."""

    rollouts: int
    """Rollouts of each problem on each side."""
    confidence: float
    """1 - the error rate; 0.9 promotes one no-op in ten."""
    tries: int = 1
    """Children that are judged side by side; they share the error rate (Bonferroni)."""
    gain_per_token_doubling: float = 0.0
    """Gain that a doubling of tokens has to bring, as a share of the parent's score."""
    tolerance: float = 0.0
    """Loss allowed against the best earlier node, as a share of its score."""
    floor: float = 0.0
    """Lowest possible score; shares are of the score above the floor."""
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
    """Scores of the best earlier node, if the child has to be compared with it."""
    best_node: int = 0
    incumbent: bool = False
    """True if the best earlier node is the champion, which the child has to beat, not equal."""
    token_ratio: float = 1.0
    """Tokens of the child's rollouts divided by those of the parent's."""


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
        planned: maximum number of problems.
        rules: same rules as for earlier looks.
        intervals: compute intervals around each side's mean, which no decision uses.
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
    """Differences after minus before, for each problem with scores of both, shape (problems,)."""
    common = [problem for problem in problems if before.get(problem) and after.get(problem)]
    return np.array([np.mean(after[problem]) - np.mean(before[problem]) for problem in common], float)


def unseen(floor: float, *sides: Scores) -> float:
    """Return the size of a difference that may occur although none was seen.

    The size is the standard deviation of scores spread evenly between the floor and the best score seen, and 0 if no
    score is above the floor.
    """
    best = max((max(found) for side in sides for found in side.values() if found), default=floor)
    return float((best - floor) / np.sqrt(12))


def most_gain(before: Scores, after: Scores, confidence: float, floor: float) -> tuple[float, float, int]:
    """Return the mean gain, its one-sided upper limit, and the number of problems with scores of both sides.

    Raises:
        ValueError: no problem in common.
    """
    found = paired(before, after, sorted(before))
    if not found.size:
        raise ValueError("no problem has scores of both sides")
    return float(found.mean()), at_most(found, confidence, unseen(floor, before, after)), found.size


def sealed_gain(before: Scores, after: Scores, confidence: float) -> Gain:
    """Return the gain on problems that decide nothing: one look, two-sided limits at this confidence.

    Raises:
        ValueError: no problem in common.
    """
    found = paired(before, after, sorted(before))
    if not found.size:
        raise ValueError("no problem has scores of both sides")
    bound, low, high = subset_quantiles(found, [1 - confidence, (1 - confidence) / 2, (1 + confidence) / 2])
    return Gain(float(found.mean()), bound, low, high, found.size)


def _looks(before: Scores, after: Scores, played: Sequence[Sequence[str]], rules: Rules) -> list[tuple[Floats, int]]:
    """Differences of each look, and problems played so far; a look with too few scores is merged with the next."""
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
    """Share of unscored rollouts, on the side with more of them."""
    scored = min(sum(len(side.get(problem, ())) for problem in problems) for side in (before, after))
    return 1 - scored / (len(problems) * rollouts)


def _read(
    looks: Sequence[tuple[Floats, int]], planned: int, alpha: float, shift: float, unseen: float = 0.0
) -> Reading:
    return read([look + shift for look, _ in looks], [end / planned for _, end in looks], alpha, unseen)


def _outcome(reading: Reading, ended: bool, alpha: float, margin: float, token_ratio: float) -> tuple[Outcome, str]:
    asked = f" above {margin:+.4f}, as the child takes {token_ratio:.1f} times the tokens" if margin else ""
    said = f"bound of the gain {reading.bound + margin:+.4f}{asked}; by chance as large: {reading.chance:.3f}"
    if reading.crossed:
        return "promoted", f"{said}, at most {reading.level:.3f} at this look ({alpha:.3g} over all)"
    if ended:
        return "undecided", f"{said}, more than the {reading.level:.3f} of the last look ({alpha:.3g} over all)"
    if reading.hopeless:
        return "futile", f"{said}; chance of a promotion at the end {reading.prospect:.3f}"
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
    """Compare the child with the best earlier node; return also True if the comparison is hopeless.

    The parent is compared too: only problems that are new to the parent can confirm it.
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
    """Yield, for each look, the blocks played so far."""
    blocks = blocks_of(problems)
    yield from (blocks[: look + 1] for look in range(len(blocks)))
