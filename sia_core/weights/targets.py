"""Training targets of a batch's choices: advantages, weights, references. Fixed for a round.

dpo and kto are losses of whole rollouts, whose choices may be in several packs. Minus their gradient is that of
sum_N coefficient_N logprob_N, where the coefficient is minus the derivative of the loss by the rollout's
summed logprob. So a step reads all logprobs once, differentiates by the sums, and then trains every pack
with these coefficients as advantages: exact, in bounded memory.
Suffixes: N choices, R rollouts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from sia_core.weights.advantages import gae, whiten
from sia_core.weights.losses import dpo, kto
from sia_core.weights.rows import Batch
from sia_core.weights.spec import UpdateSpec


@dataclass(frozen=True)
class Measured:
    """Measurements of each choice from a pass without gradient, each of shape (N,)."""

    logprob: torch.Tensor
    entropy: torch.Tensor
    value: torch.Tensor | None = None


@dataclass(frozen=True)
class Targets:
    """Training targets of the choices, each of shape (N,)."""

    recorded: torch.Tensor
    advantage: torch.Tensor
    weight: torch.Tensor
    rollout: torch.Tensor
    base: torch.Tensor | None = None
    value: torch.Tensor | None = None
    returns: torch.Tensor | None = None
    fixed_loss: float | None = None
    """Value of the loss, where the advantages are coefficients of its gradient."""

    def at(self, index: Sequence[int]) -> "Targets":
        """Return the targets of some choices."""
        values: dict[str, Any] = {
            name: value[list(index)] for name, value in vars(self).items() if isinstance(value, torch.Tensor)
        }
        return replace(self, **values)


def make_targets(batch: Batch, spec: UpdateSpec, before: Measured | None, base: Measured | None) -> Targets:
    """Targets of a round.

    Args:
        batch: the round's batch.
        spec: gamma and lambda.
        before: measured before the first step, for values and for logprobs that were not recorded.
        base: measured with the bare policy, for the KL.
    """
    choices = batch.choices
    weight_N = torch.tensor([choice.weight for choice in choices])
    rollout_N = torch.tensor([choice.rollout for choice in choices])
    recorded_N = torch.tensor([0.0 if choice.logprob is None else choice.logprob for choice in choices])
    if before is not None:
        missing_N = torch.tensor([choice.logprob is None for choice in choices])
        recorded_N = torch.where(missing_N, before.logprob.cpu(), recorded_N)
    targets = Targets(
        recorded_N,
        torch.tensor([choice.advantage for choice in choices]),
        weight_N,
        rollout_N,
        base.logprob if base is not None else None,
    )
    if before is None or before.value is None:
        return targets
    advantages, returns = _estimate(batch, before.value.tolist(), spec)
    return replace(
        targets,
        advantage=torch.tensor(whiten(advantages)),
        value=before.value,
        returns=torch.tensor(returns),
    )


def _estimate(batch: Batch, values: Sequence[float], spec: UpdateSpec) -> tuple[list[float], list[float]]:
    advantages: list[float] = []
    returns: list[float] = []
    for rollout in range(batch.rollouts):
        members = [at for at, choice in enumerate(batch.choices) if choice.rollout == rollout]
        rewards = [batch.choices[at].reward for at in members]
        found = gae(rewards, [values[at] for at in members], spec.gamma, spec.lam)
        advantages += found[0]
        returns += found[1]
    return advantages, returns


def with_coefficients(targets: Targets, batch: Batch, spec: UpdateSpec, logprob_N: torch.Tensor) -> Targets:
    """Set the advantages of dpo or kto such that sum(advantage logprob) has minus the loss's gradient.

    The reference is the policy as the round began.
    """
    zero_R = torch.zeros(batch.rollouts)
    sum_R = zero_R.index_add(0, targets.rollout, logprob_N.detach().cpu()).requires_grad_()
    reference_R = zero_R.index_add(0, targets.rollout, targets.recorded)
    if spec.algorithm == "dpo":
        loss = dpo(sum_R, reference_R, batch.pairs, spec.beta)
    else:
        loss = kto(sum_R, reference_R, batch.good, spec.beta)
    (gradient_R,) = torch.autograd.grad(loss, sum_R)
    return replace(
        targets,
        advantage=-gradient_R[targets.rollout],
        weight=torch.ones_like(targets.weight),
        fixed_loss=float(loss.detach()),
    )
