"""A weight update, as asked for: frozen, content-addressed, refused when it cannot work."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from sia_core.hashing import digest_json
from sia_core.rollout import Rollout

MIN_GROUPS = 2
SAME_SCORE = 1e-9
"""Scores closer than this are one outcome."""


@dataclass(frozen=True)
class UpdateSpec:
    """Everything that decides what an update makes of the rollouts it is given."""

    parent_adapter: str | None
    """Digest of the adapter trained further; None starts a new one on the bare policy."""
    rounds: int
    """On-policy rounds: rollouts, steps, new adapter."""
    steps: int
    """Optimiser steps on each round's rollouts."""
    learning_rate: float
    rank: int
    """LoRA rank; alpha equals it. Ignored when a parent adapter is trained further."""
    temperature: float
    """At which the rollouts were sampled; the trainer divides logits by the same."""
    seed: int
    """Of the new adapter's initialisation."""
    reason: str = ""
    expected_gain: float = 0.0
    algorithm: str = "dr_grpo"
    clip_low: float = 0.2
    clip_high: float = 0.28
    max_gap: float = 0.05
    """Greatest mean difference between recorded and recomputed logprobs before the first step."""
    max_kl: float = 0.5
    """Steps of a round end when the KL to the policy that sampled it passes this."""

    @property
    def id(self) -> str:
        """Content address."""
        return digest_json(asdict(self))


def make_groups(rollouts: Sequence[Rollout]) -> list[list[Rollout]]:
    """Scored rollouts of one problem by one candidate, in the order of unit keys."""
    groups: dict[tuple[str, str | None, str], list[Rollout]] = defaultdict(list)
    for rollout in sorted(rollouts, key=lambda rollout: rollout.unit.key):
        if rollout.score is not None:
            groups[rollout.unit.harness, rollout.unit.adapter, rollout.unit.problem].append(rollout)
    return list(groups.values())


def is_constant(group: Sequence[Rollout]) -> bool:
    """Whether a group has one outcome only, and so no advantage to learn from."""
    scores = [rollout.score or 0.0 for rollout in group]
    return max(scores) - min(scores) <= SAME_SCORE


def refuse(rollouts: Sequence[Rollout], spec: UpdateSpec) -> str | None:
    """Why an update on these rollouts cannot work, or None when it can."""
    groups = make_groups(rollouts)
    if len(groups) < MIN_GROUPS:
        return f"{len(groups)} groups of scored rollouts: an update needs at least {MIN_GROUPS}"
    sampled = [rollout for rollout in rollouts if rollout.turns]
    if not any(rollout.trainable for rollout in sampled):
        return "no rollout has token ids and logprobs"
    mixed = [group for group in groups if not is_constant(group)]
    if not mixed:
        return f"all {len(groups)} groups are constant: no rollout did better than another of its problem"
    if not any(rollout.trainable for group in mixed for rollout in group):
        return "no rollout of a mixed group has token ids and logprobs"
    temperatures = {turn.temperature for rollout in sampled for turn in rollout.turns}
    if temperatures != {spec.temperature}:
        return f"rollouts were sampled at temperature {sorted(temperatures)}, the update is for {spec.temperature}"
    return None
