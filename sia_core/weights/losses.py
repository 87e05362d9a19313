"""Losses on the logprobs of sampled tokens. Suffix N: one entry a choice.

Every logprob is under the distribution that was sampled from: temperature applied, and
restricted to the allowed ids where there were any.
"""

from dataclasses import dataclass

import torch

MAX_LOG_RATIO = 20.0


@dataclass(frozen=True)
class PolicyLoss:
    """A scalar to differentiate, and what to watch (detached sums over the choices)."""

    loss: torch.Tensor
    clipped: float
    kl: float
    gap: float


def clipped_policy_loss(
    logprob_N: torch.Tensor,
    recorded_N: torch.Tensor,
    advantage_N: torch.Tensor,
    *,
    clip_low: float,
    clip_high: float,
    rollouts: int,
) -> PolicyLoss:
    """PPO's clipped surrogate (arXiv 1707.06347, eq. 7) with asymmetric clip (DAPO, arXiv 2503.14476, eq. 10).

    The sum over choices is divided by the number of rollouts, a constant: no choice weighs more
    because its rollout was short (Dr. GRPO, arXiv 2503.20783).

    Args:
        logprob_N: under the model being trained, shape (N,).
        recorded_N: under the policy that sampled, shape (N,).
        advantage_N: of each choice's rollout, shape (N,).
        clip_low: the ratio is held above 1 - clip_low.
        clip_high: and below 1 + clip_high.
        rollouts: the normaliser.
    """
    log_ratio_N = (logprob_N - recorded_N).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    ratio_N = log_ratio_N.exp()
    held_N = ratio_N.clamp(1 - clip_low, 1 + clip_high)
    objective_N = torch.minimum(ratio_N * advantage_N, held_N * advantage_N)
    with torch.no_grad():
        clipped = float((objective_N < ratio_N * advantage_N).sum())
        # k3 of Schulman's "Approximating KL divergence": unbiased for KL(sampler || model), never negative.
        kl = float((ratio_N - 1 - log_ratio_N).sum())
        gap = float(log_ratio_N.abs().sum())
    return PolicyLoss(-objective_N.sum() / rollouts, clipped, kl, gap)


def choice_logprobs(
    logit_NV: torch.Tensor, token_N: torch.Tensor, allowed: list[tuple[int, ...] | None], temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logprob of each sampled token, and the entropy of the distribution it came from.

    Args:
        logit_NV: logits at each choice's position, shape (N, V).
        token_N: sampled ids, shape (N,).
        allowed: ids each choice was restricted to, None for all.
        temperature: logits are divided by it.

    Returns:
        Two tensors of shape (N,).
    """
    if any(ids is not None for ids in allowed):
        blocked_NV = torch.ones_like(logit_NV, dtype=torch.bool)
        for row, ids in enumerate(allowed):
            blocked_NV[row, list(ids) if ids is not None else slice(None)] = False
        logit_NV = logit_NV.masked_fill(blocked_NV, float("-inf"))
    logprob_NV = torch.log_softmax(logit_NV.float() / temperature, -1)
    entropy_N = torch.special.entr(logprob_NV.detach().exp()).sum(-1)
    return logprob_NV.gather(-1, token_N[:, None])[:, 0], entropy_N
