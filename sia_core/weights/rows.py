"""From recorded turns to what a training step reads.

Each sampled token becomes one `Choice`, trained exactly once; forced tokens (one allowed) are
not the policy's doing and never are. The advantage belongs to the rollout and is given to all
its choices.

Shared contexts: a causal model's logits at a position depend only on the ids before it. So all
choices made after the same ids are read from one forward pass, and a context that begins another
one is read from the longer. This is exact, and chains of choices repeat their prompts so often
that it saves most of the work.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sia_core.rollout import Rollout
from sia_core.weights.spec import is_constant, make_groups

Advantages = Callable[[Sequence[float]], list[float]]
"""Scores of one group -> advantage of each rollout."""


def dr_grpo(scores: Sequence[float]) -> list[float]:
    """Score minus the group's mean, not divided by its deviation (Dr. GRPO, arXiv 2503.20783, section 3.2)."""
    mean = sum(scores) / len(scores)
    return [score - mean for score in scores]


ADVANTAGES: Mapping[str, Advantages] = {"dr_grpo": dr_grpo}
"""Algorithms by name."""


@dataclass(frozen=True)
class Choice:
    """One sampled token."""

    sequence: int
    """Index into `Batch.sequences`."""
    position: int
    """Of the logits it was sampled from: index of the last id before it."""
    token: int
    allowed: tuple[int, ...] | None
    """Ids it was restricted to; None for the whole vocabulary."""
    logprob: float
    """As recorded when it was sampled."""
    advantage: float


@dataclass(frozen=True)
class Batch:
    """One round's training data."""

    sequences: tuple[tuple[int, ...], ...]
    """Distinct contexts; none begins another."""
    choices: tuple[Choice, ...]
    rollouts: int
    """Rollouts with an advantage: the loss is a sum over choices divided by this."""
    constant_groups: int
    groups: int
    untrainable: int
    """Rollouts left out because ids or logprobs are missing."""


def make_batch(rollouts: Sequence[Rollout], algorithm: str) -> Batch:
    """Rows of all mixed groups, independent of the order of `rollouts`.

    Raises:
        KeyError: unknown algorithm.
    """
    advantages = ADVANTAGES[algorithm]
    groups = make_groups(rollouts)
    mixed = [group for group in groups if not is_constant(group)]
    sampled: list[tuple[tuple[int, ...], int, tuple[int, ...] | None, float, float]] = []
    used = untrainable = 0
    for group in mixed:
        for rollout, advantage in zip(group, advantages([r.score or 0.0 for r in group]), strict=True):
            if rollout.trainable:
                used += 1
                sampled += _sampled_tokens(rollout, advantage)
            else:
                untrainable += 1
    sequences, owner = _longest({context for context, *_ in sampled})
    choices = tuple(
        Choice(owner[context], len(context) - 1, token, allowed, logprob, advantage)
        for context, token, allowed, logprob, advantage in sampled
    )
    return Batch(sequences, choices, used, len(groups) - len(mixed), len(groups), untrainable)


def _sampled_tokens(
    rollout: Rollout, advantage: float
) -> list[tuple[tuple[int, ...], int, tuple[int, ...] | None, float, float]]:
    found = []
    for turn in rollout.turns:
        assert turn.prompt_ids is not None and turn.output_ids is not None and turn.logprobs is not None
        for at, (token, logprob) in enumerate(zip(turn.output_ids, turn.logprobs, strict=True)):
            allowed = turn.allowed[at] if turn.allowed is not None else None
            if allowed is None or len(allowed) > 1:
                found.append((turn.prompt_ids + turn.output_ids[:at], token, allowed, logprob, advantage))
    return found


def _longest(contexts: set[tuple[int, ...]]) -> tuple[tuple[tuple[int, ...], ...], dict[tuple[int, ...], int]]:
    """Contexts that begin no other one, and for every context the index of one it begins."""
    kept: list[tuple[int, ...]] = []
    owner: dict[tuple[int, ...], int] = {}
    # Sorted backwards, a context that begins another comes right after one that it begins.
    for context in sorted(contexts, reverse=True):
        if not kept or kept[-1][: len(context)] != context:
            kept.append(context)
        owner[context] = len(kept) - 1
    return tuple(kept), owner
