"""The algorithms of a weight update by name: loss, requirements, and when to choose each. Loads no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from sia_core.domain.errors import TaskError
from sia_core.weights import advantages
from sia_core.weights.advantages import Advantage, per_group

Normaliser = Literal["rollouts", "tokens", "per_rollout"]
"""Divisor of a sum over tokens.

- `rollouts`: the number of rollouts, a constant. No token weighs more because its rollout was short.
- `tokens`: the number of trained tokens of the batch.
- `per_rollout`: each rollout's own number of trained tokens, then the number of rollouts. Every rollout
  has the same weight, at any length and number of rows.
"""
LossName = Literal["clip", "importance", "cispo", "cross_entropy", "dpo", "kto"]


@dataclass(frozen=True)
class Needs:
    """Requirements of an algorithm on a batch."""

    logprobs: bool = True
    """Recorded logprobs; if False, token ids are enough."""
    groups: int = 2
    """Minimum number of groups."""
    max_groups: int | None = None
    size: int = 2
    """Smallest mean group size."""
    mixed: bool = True
    """At least one group with more than one outcome."""
    skew: float | None = None
    """Minimum skew of the scores."""
    steps: bool = False
    """Rewards of single turns, or enough turns for a value function to distinguish states."""
    value_head: bool = False


@dataclass(frozen=True)
class Algorithm:
    """Method that turns scored rollouts into a gradient."""

    loss: LossName
    normaliser: Normaliser
    source: str
    fits: str
    """Advice to agents on when to choose the algorithm, in one line."""
    advantage: Advantage | None = None
    """None where advantages come from values (ppo) or the loss compares rollouts (dpo, kto)."""
    needs: Needs = Needs()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Fields of an UpdateSpec that suit the algorithm with LoRA, unless the task sets them."""


ALGORITHMS: Mapping[str, Algorithm] = {
    "dr_grpo": Algorithm(
        "clip",
        "rollouts",
        "arXiv 2503.20783",
        "the default: terminal scores, several problems, some but not all rollouts right",
        per_group(advantages.dr_grpo),
        defaults={"learning_rate": 4e-5, "steps": 2},
    ),
    "grpo": Algorithm(
        "clip",
        "tokens",
        "arXiv 2402.03300; token normaliser of DAPO, arXiv 2503.14476",
        "as dr_grpo where problems' scores have different scales: each group's deviation is divided out",
        per_group(advantages.grpo),
        defaults={"learning_rate": 4e-5, "steps": 2},
    ),
    "rloo": Algorithm(
        "clip",
        "rollouts",
        "arXiv 2402.14740",
        "few rollouts of a problem (2 to 4), or a single problem; unbiased baseline",
        per_group(advantages.rloo),
        Needs(groups=1),
        {"learning_rate": 4e-5, "steps": 2, "kl_base": 0.01},
    ),
    "reinforce_pp": Algorithm(
        "clip",
        "per_rollout",
        "REINFORCE++-baseline, arXiv 2501.03262",
        "the policy is able already and getting worse elsewhere is the risk: KL to the base model",
        advantages.reinforce_pp,
        defaults={"learning_rate": 4e-5, "steps": 2, "kl_base": 0.05},
    ),
    "ppo": Algorithm(
        "clip",
        "tokens",
        "arXiv 1707.06347 with GAE, arXiv 1506.02438",
        "rewards of single turns (`step/N` metrics) or long episodes; no groups needed",
        None,
        Needs(groups=1, size=1, mixed=False, steps=True, value_head=True),
        {"learning_rate": 4e-5, "steps": 4, "value_learning_rate": 1e-2, "lam": 0.95},
    ),
    "entropic": Algorithm(
        "importance",
        "rollouts",
        "TTT-Discover, arXiv 2601.16175",
        "one or few hard problems where the best counts, not the mean: right-skewed scores, at least 16 rollouts each",
        per_group(advantages.entropic),
        Needs(groups=1, max_groups=4, size=16, skew=1.0),
        {"learning_rate": 4e-5, "steps": 1},
    ),
    "best_of_n": Algorithm(
        "cross_entropy",
        "tokens",
        "RFT, arXiv 2308.01825",
        "cold start: the mean is near the floor and a few rollouts succeeded; works without logprobs",
        per_group(advantages.best_of_n),
        Needs(logprobs=False, groups=1),
        {"learning_rate": 2e-4, "steps": 3},
    ),
    "dpo": Algorithm(
        "dpo",
        "rollouts",
        "arXiv 2305.18290, equation 7",
        "the verifier ranks but its scale means nothing; works without logprobs",
        None,
        Needs(logprobs=False, groups=1),
        {"learning_rate": 1e-5, "steps": 4, "beta": 0.1},
    ),
    "kto": Algorithm(
        "kto",
        "rollouts",
        "arXiv 2402.01306, equation 7",
        "good and poor rollouts that cannot be paired within a problem (one rollout each); works without logprobs",
        None,
        Needs(logprobs=False, groups=1, size=1, mixed=False),
        {"learning_rate": 1e-5, "steps": 4, "beta": 0.1},
    ),
}


def check_algorithm(name: str | None, where: str) -> None:
    """Refuse a name that no algorithm has; None leaves the choice to the updater.

    Raises:
        TaskError: unknown name.
    """
    if name is not None and name not in ALGORITHMS:
        hint = f"use one of {', '.join(ALGORITHMS)}"
        raise TaskError(f"update.algorithm: unknown algorithm {name!r}", where=where, hint=hint)
