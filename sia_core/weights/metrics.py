"""Metrics that a training step reports. Loads no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from sia_core.domain.rollout import Rollout
from sia_core.weights.groups import make_groups, score_of
from sia_core.weights.rows import Batch


@dataclass(frozen=True)
class StepMetrics:
    """Metrics of one optimiser step; means are over choices."""

    loss: float
    reward: float
    reward_error: float
    """Standard error of the reward, over problems where there are several."""
    kl: float
    """KL to the policy that sampled the rollouts."""
    kl_base: float
    """KL to the bare policy; 0 where the KL is not computed."""
    gap: float
    """Mean absolute difference between recorded and current logprobs."""
    entropy: float
    clipped: float
    value_loss: float
    grad_norm: float
    choices: int
    sequences: int
    rows: int
    tokens: int
    """Ids fed to the model."""
    tokens_per_s: float
    constant_groups: float
    untrainable: int


def mean_reward(rollouts: Sequence[Rollout]) -> tuple[float, float]:
    """Mean score and its standard error: over problems where there are several, else over rollouts."""
    groups = [[score_of(rollout) for rollout in group] for group in make_groups(rollouts)]
    flat = [score for group in groups for score in group]
    parts = [fmean(group) for group in groups] if len(groups) > 1 else flat
    return fmean(flat), stdev(parts) / len(parts) ** 0.5 if len(parts) > 1 else 0.0


def step_metrics(
    batch: Batch,
    reward: tuple[float, float],
    *,
    loss: float,
    grad_norm: float,
    tokens: int,
    speed: float,
    kl: float,
    gap: float,
    entropy: float,
    clipped: float = 0.0,
    kl_base: float = 0.0,
    value_loss: float = 0.0,
) -> StepMetrics:
    """Metrics of a step on a batch."""
    return StepMetrics(
        loss=loss,
        reward=reward[0],
        reward_error=reward[1],
        kl=kl,
        kl_base=kl_base,
        gap=gap,
        entropy=entropy,
        clipped=clipped,
        value_loss=value_loss,
        grad_norm=grad_norm,
        choices=len(batch.choices),
        sequences=len(batch.sequences),
        rows=batch.rows,
        tokens=tokens,
        tokens_per_s=speed,
        constant_groups=batch.constant_groups / max(batch.groups, 1),
        untrainable=batch.untrainable,
    )
