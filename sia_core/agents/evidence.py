"""Evidence: statistics of the rollouts, computed before any agent is asked. Deterministic."""

from collections import Counter, defaultdict
from collections.abc import Sequence

from sia_core.domain.candidate import Candidate
from sia_core.domain.lineage import Evidence
from sia_core.domain.replies import count_replies
from sia_core.domain.rollout import Rollout
from sia_core.domain.stats import estimate

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
        replies=count_replies(rollouts),
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
    """List failures, then low scores, then the best; each outcome and problem once before any of them again."""
    ranked = sorted(scored, key=lambda rollout: (rollout.failure is None, rollout.score, rollout.unit.key))
    seen: Counter[tuple[str, ...]] = Counter()
    order: list[tuple[int, int, int, str]] = []
    for place, rollout in enumerate([*ranked[:1], *ranked[-1:], *ranked[1:-1]]):
        alike, problem = _outcome(rollout), (rollout.unit.problem,)
        order.append((seen[alike], seen[problem], place, rollout.unit.key))
        seen[alike] += 1
        seen[problem] += 1
    return tuple(dict.fromkeys(key for *_, key in sorted(order)))[:EXAMPLES]


def _outcome(rollout: Rollout) -> tuple[str, ...]:
    """Return a key that is equal for rollouts with the same end and the same replies."""
    if rollout.failure is not None:
        return ("failure", rollout.failure.kind, rollout.failure.reason)
    feedback = rollout.verdict.feedback if rollout.verdict is not None and not rollout.verdict.valid else ""
    return ("answer", feedback, *(turn.output for turn in rollout.turns))
