"""Groups, recorded data and statistics of a batch of rollouts, before any algorithm. Loads no torch."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, pstdev
from typing import Literal

from sia_core.domain.hashing import digest_json
from sia_core.domain.rollout import Rollout

SAME_SCORE = 1e-9
"""Scores closer than this are one outcome."""
STEP_PREFIX = "step/"
"""A verdict's metric `step/2` is the reward that its third turn earned."""

Recorded = Literal["logprobs", "ids", "none"]


def make_groups(rollouts: Sequence[Rollout]) -> list[list[Rollout]]:
    """Scored rollouts of one problem by one candidate from one state, in the order of unit keys."""
    groups: dict[tuple[str, str | None, str, str | None], list[Rollout]] = defaultdict(list)
    for rollout in sorted(rollouts, key=lambda rollout: rollout.unit.key):
        if rollout.score is not None:
            unit = rollout.unit
            groups[unit.harness, unit.adapter, unit.problem, unit.state].append(rollout)
    return list(groups.values())


def is_constant(group: Sequence[Rollout]) -> bool:
    """Return True if a group has one outcome only, and so no advantage to learn from."""
    scores = [score_of(rollout) for rollout in group]
    return max(scores) - min(scores) <= SAME_SCORE


def score_of(rollout: Rollout) -> float:
    """The score of a scored rollout."""
    return rollout.score or 0.0


def recorded(rollout: Rollout) -> Recorded:
    """Return the data that all turns of a rollout have: token ids with logprobs, token ids only, or neither."""
    if rollout.trainable:
        return "logprobs"
    known = all(turn.prompt_ids is not None and turn.output_ids is not None for turn in rollout.turns)
    return "ids" if rollout.turns and known else "none"


def step_rewards(rollout: Rollout) -> list[float] | None:
    """Reward of each turn from the verdict's `step/N` metrics; None where the verifier gave none.

    The rest of the score goes to the last turn, so that the rewards always add up to the score.
    """
    metrics = rollout.verdict.metrics if rollout.verdict and rollout.failure is None else {}
    if not rollout.turns or not any(name.startswith(STEP_PREFIX) for name in metrics):
        return None
    rewards = [metrics.get(f"{STEP_PREFIX}{turn}", 0.0) for turn in range(len(rollout.turns))]
    rewards[-1] += score_of(rollout) - sum(rewards)
    return rewards


def batch_digest(rollouts: Sequence[Rollout]) -> str:
    """Content address of the data that training reads, independent of the order of rollouts."""
    read = [
        {
            "unit": rollout.unit.key,
            "score": rollout.score,
            "steps": step_rewards(rollout),
            "turns": [asdict(turn) | {"latency_s": 0.0} for turn in rollout.turns],
        }
        for rollout in sorted(rollouts, key=lambda rollout: rollout.unit.key)
        if rollout.score is not None
    ]
    # As text: a logprob may be infinite in a record that is about to be refused, and JSON has no infinity.
    return digest_json(repr(read))


@dataclass(frozen=True)
class BatchStats:
    """Statistics of a batch that preconditions are judged by."""

    groups: int
    mixed: int
    """Groups with more than one outcome."""
    size: float
    """Mean group size."""
    mean: float
    low: float
    best: float
    skew: float
    """Third standardised moment of all scores; 0 when they are equal."""
    spread: float
    """Standard deviation within groups, pooled."""
    recorded: Recorded
    """The most that any rollout has."""
    steps_vary: bool
    """True if turns earned different rewards of their own."""
    turns: float
    """Mean turns of a rollout."""
    temperatures: tuple[float, ...]


def batch_stats(rollouts: Sequence[Rollout]) -> BatchStats:
    """Statistics of the scored rollouts."""
    groups = make_groups(rollouts)
    flat = [rollout for group in groups for rollout in group]
    scores = [score_of(rollout) for rollout in flat]
    mean = fmean(scores) if scores else 0.0
    deviation = pstdev(scores) if scores else 0.0
    flat_score = deviation <= SAME_SCORE
    kinds = {recorded(rollout) for rollout in flat}
    within = [(score_of(r) - fmean(map(score_of, group))) ** 2 for group in groups for r in group]
    steps = [reward for rollout in flat for reward in step_rewards(rollout) or ()]
    return BatchStats(
        groups=len(groups),
        mixed=sum(not is_constant(group) for group in groups),
        size=len(flat) / max(len(groups), 1),
        mean=mean,
        low=min(scores, default=0.0),
        best=max(scores, default=0.0),
        skew=0.0 if flat_score else fmean(((score - mean) / deviation) ** 3 for score in scores),
        spread=fmean(within) ** 0.5 if within else 0.0,
        recorded="logprobs" if "logprobs" in kinds else "ids" if "ids" in kinds else "none",
        steps_vary=bool(steps) and max(steps) - min(steps) > SAME_SCORE,
        turns=fmean(len(rollout.turns) for rollout in flat) if flat else 0.0,
        temperatures=tuple(sorted({turn.temperature for rollout in flat for turn in rollout.turns})),
    )
