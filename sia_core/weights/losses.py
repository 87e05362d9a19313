"""Losses on the logprobs of sampled tokens. Suffixes: N choices, K contexts, V vocabulary.

Every logprob is under the distribution that was sampled from: temperature applied, and
restricted to the allowed ids where there were any.
"""

from collections.abc import Sequence
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
        # In double precision, as near ratio 1 the terms cancel.
        exact_N = log_ratio_N.double()
        kl = float((exact_N.expm1() - exact_N).clamp_min(0).sum())
        gap = float(log_ratio_N.abs().sum())
    return PolicyLoss(-objective_N.sum() / rollouts, clipped, kl, gap)


def choice_logprobs(
    logit_KV: torch.Tensor,
    row_N: torch.Tensor,
    token_N: torch.Tensor,
    allowed: Sequence[tuple[int, ...] | None],
    temperature: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logprob of each sampled token, and the entropy of the distribution it came from.

    Args:
        logit_KV: logits at each context that was sampled from, shape (K, V).
        row_N: context of each choice, shape (N,).
        token_N: sampled ids, shape (N,).
        allowed: ids each choice was restricted to, None for all.
        temperature: logits are divided by it.

    Returns:
        Two tensors of shape (N,).
    """
    bound = [at for at, ids in enumerate(allowed) if ids is not None]
    free = [at for at, ids in enumerate(allowed) if ids is None]
    parts = []
    if bound:
        ids = [allowed[at] or () for at in bound]
        parts.append(_restricted(logit_KV, row_N[bound], token_N[bound], ids, temperature))
    if free:
        parts.append(_free(logit_KV, row_N[free], token_N[free], temperature))
    back = torch.tensor(bound + free, device=logit_KV.device).argsort()
    return torch.cat([logprob for logprob, _ in parts])[back], torch.cat([entropy for _, entropy in parts])[back]


def _restricted(
    logit_KV: torch.Tensor,
    row_N: torch.Tensor,
    token_N: torch.Tensor,
    ids: Sequence[tuple[int, ...]],
    temperature: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Reads only the allowed columns (suffix A: padded to the longest list) of a wide vocabulary."""
    padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(each) for each in ids], batch_first=True, padding_value=-1)
    ids_NA = padded.to(logit_KV.device)
    logit_NA = logit_KV[row_N[:, None], ids_NA.clamp_min(0)].float().masked_fill(ids_NA < 0, float("-inf"))
    logprob_NA = torch.log_softmax(logit_NA / temperature, -1)
    column_N = (ids_NA == token_N[:, None]).int().argmax(-1)
    return logprob_NA.gather(-1, column_N[:, None])[:, 0], _entropy(logprob_NA)


def _free(
    logit_KV: torch.Tensor, row_N: torch.Tensor, token_N: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    logprob_KV = torch.log_softmax(logit_KV.float() / temperature, -1)
    return logprob_KV[row_N, token_N], _entropy(logprob_KV)[row_N]


def _entropy(logprob_NV: torch.Tensor) -> torch.Tensor:
    entropy_N: torch.Tensor = torch.special.entr(logprob_NV.detach().exp()).sum(-1)
    return entropy_N
