"""Evidence: what the rollouts say, computed before any agent is asked. Deterministic."""

from collections import Counter, defaultdict
from collections.abc import Sequence

from sia_core.candidate import Candidate
from sia_core.generation import Evidence
from sia_core.rollout import Rollout
from sia_core.stats import estimate

EXAMPLES = 12
SAME_SCORE = 1e-9
"""Scores closer than this are one outcome."""


def scores_by_problem(rollouts: Sequence[Rollout]) -> dict[str, list[float]]:
    """Problem id -> scores, in the order of unit keys; unscored rollouts are left out."""
    scores: dict[str, list[float]] = defaultdict(list)
    for rollout in sorted(rollouts, key=lambda rollout: rollout.unit.key):
        if rollout.score is not None:
            scores[rollout.unit.problem].append(rollout.score)
    return dict(scores)


def gather(candidate: Candidate, rollouts: Sequence[Rollout], *, confidence: float, seed: int) -> Evidence:
    """Compute the evidence of one candidate's rollouts on the train split.

    Raises:
        ValueError: no rollout was scored.
    """
    scores = scores_by_problem(rollouts)
    groups = list(scores.values())
    constant = sum(max(group) - min(group) <= SAME_SCORE for group in groups) / max(len(groups), 1)
    scored = [rollout for rollout in rollouts if rollout.score is not None]
    return Evidence(
        candidate=candidate,
        score=estimate(scores, confidence=confidence, seed=seed),
        best_of=sum(map(max, groups)) / len(groups),
        group_size=max(map(len, groups)),
        mixed=1 - constant,
        constant=constant,
        failures=_failures(scored),
        unscored=len(rollouts) - len(scored),
        trainable=all(rollout.trainable for rollout in scored if rollout.failure is None),
        examples=_examples(scored),
    )


def _failures(scored: Sequence[Rollout]) -> dict[str, float]:
    kinds: Counter[str] = Counter()
    for rollout in scored:
        if rollout.failure is not None:
            kinds[rollout.failure.kind] += 1
        elif rollout.verdict is not None and not rollout.verdict.valid:
            kinds["refused"] += 1
    return {kind: count / len(scored) for kind, count in sorted(kinds.items())}


def _examples(scored: Sequence[Rollout]) -> tuple[str, ...]:
    """Failures first, then the lowest scores, one a problem before a second of any."""
    ranked = sorted(scored, key=lambda rollout: (rollout.failure is None, rollout.score, rollout.unit.key))
    seen: Counter[str] = Counter()
    order: list[tuple[int, int, str]] = []
    for rollout in ranked:
        order.append((seen[rollout.unit.problem], len(order), rollout.unit.key))
        seen[rollout.unit.problem] += 1
    return tuple(key for _, _, key in sorted(order)[:EXAMPLES])
