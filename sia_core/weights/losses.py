"""Losses on the logprobs of sampled tokens. Suffixes: N choices, K contexts, V vocabulary, R rollouts, P pairs.

Every logprob is under the distribution that was sampled from: temperature applied, and restricted to
the allowed ids, if any. The weights of choices hold the divisor of a sum (see algorithms.Normaliser).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from sia_core.weights.spec import UpdateSpec

MAX_LOG_RATIO = 20.0


@dataclass(frozen=True)
class PolicyLoss:
    """A scalar to differentiate, and detached sums over the choices to monitor."""

    loss: torch.Tensor
    clipped: float
    kl: float
    gap: float


Objective = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, UpdateSpec], tuple[torch.Tensor, torch.Tensor]]
"""(logprob_N, recorded_N, advantage_N, spec) -> (objective of each choice, True where its gradient is clipped)."""


def policy_loss(
    name: str,
    logprob_N: torch.Tensor,
    recorded_N: torch.Tensor,
    advantage_N: torch.Tensor,
    weight_N: torch.Tensor,
    spec: UpdateSpec,
) -> PolicyLoss:
    """Minus the weighted sum of an objective.

    Args:
        name: a name in OBJECTIVES.
        logprob_N: logprobs under the model being trained, shape (N,).
        recorded_N: logprobs under the policy that sampled, shape (N,).
        advantage_N: advantage of each choice, shape (N,).
        weight_N: share of each choice in the loss, shape (N,).
        spec: clip ranges and caps.
    """
    objective_N, held_N = OBJECTIVES[name](logprob_N, recorded_N, advantage_N, spec)
    with torch.no_grad():
        log_ratio_N = _log_ratio(logprob_N, recorded_N)
        # k3 of Schulman's "Approximating KL divergence": unbiased for KL(sampler || model), never negative.
        # In double precision, as near ratio 1 the terms cancel.
        exact_N = log_ratio_N.double()
        kl = float((exact_N.expm1() - exact_N).clamp_min(0).sum())
        gap = float(log_ratio_N.abs().sum())
    return PolicyLoss(-(weight_N * objective_N).sum(), float(held_N.sum()), kl, gap)


def clip(
    logprob_N: torch.Tensor, recorded_N: torch.Tensor, advantage_N: torch.Tensor, spec: UpdateSpec
) -> tuple[torch.Tensor, torch.Tensor]:
    """PPO's clipped surrogate (arXiv 1707.06347, eq. 7) with asymmetric clip (DAPO, arXiv 2503.14476, eq. 10).

    With `dual_clip` c and a negative advantage, the objective is at least c times the advantage
    (arXiv 1912.09729, eq. 5).
    """
    ratio_N = _log_ratio(logprob_N, recorded_N).exp()
    plain_N = ratio_N * advantage_N
    objective_N = torch.minimum(plain_N, ratio_N.clamp(1 - spec.clip_low, 1 + spec.clip_high) * advantage_N)
    held_N = objective_N < plain_N
    if spec.dual_clip is not None:
        floor_N = spec.dual_clip * advantage_N
        bound_N = (advantage_N < 0) & (objective_N < floor_N)
        objective_N = torch.where(bound_N, floor_N, objective_N)
        held_N = held_N | bound_N
    return objective_N, held_N


def importance(
    logprob_N: torch.Tensor, recorded_N: torch.Tensor, advantage_N: torch.Tensor, spec: UpdateSpec
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ratio times advantage, the weight truncated at `cap` (ACER, arXiv 1611.01224, section 3.1).

    Below the cap, the gradient is the plain importance-sampled policy gradient; above the cap, the capped weight
    keeps a gradient where clipping would end it.
    """
    ratio_N = _log_ratio(logprob_N, recorded_N).exp().detach()
    value_N = (logprob_N - logprob_N.detach()).exp()
    return ratio_N.clamp_max(spec.cap) * value_N * advantage_N, ratio_N > spec.cap


def cispo(
    logprob_N: torch.Tensor, recorded_N: torch.Tensor, advantage_N: torch.Tensor, spec: UpdateSpec
) -> tuple[torch.Tensor, torch.Tensor]:
    """Clipped ratio, detached, times advantage times logprob (MiniMax-M1, arXiv 2506.13585, eq. 4 and 5)."""
    ratio_N = _log_ratio(logprob_N, recorded_N).exp().detach()
    held_N = ratio_N.clamp(1 - spec.clip_low, 1 + spec.clip_high)
    return held_N * advantage_N * logprob_N, held_N != ratio_N


def cross_entropy(
    logprob_N: torch.Tensor, recorded_N: torch.Tensor, advantage_N: torch.Tensor, spec: UpdateSpec
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logprob times advantage: maximum likelihood where the advantages are 1."""
    del recorded_N, spec
    return logprob_N * advantage_N, torch.zeros_like(logprob_N, dtype=torch.bool)


OBJECTIVES: Mapping[str, Objective] = {
    "clip": clip,
    "importance": importance,
    "cispo": cispo,
    "cross_entropy": cross_entropy,
    # With coefficients of `dpo` or `kto` as advantages, cross entropy has their gradient.
    "dpo": cross_entropy,
    "kto": cross_entropy,
}


def _log_ratio(logprob_N: torch.Tensor, recorded_N: torch.Tensor) -> torch.Tensor:
    return (logprob_N - recorded_N).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)


def kl_to_base(logprob_N: torch.Tensor, base_N: torch.Tensor) -> torch.Tensor:
    """k3 estimate of KL(model || base) at each choice, with gradient (GRPO, arXiv 2402.03300, eq. 4), shape (N,)."""
    back_N = (base_N - logprob_N).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    return back_N.expm1() - back_N


def value_loss(value_N: torch.Tensor, old_N: torch.Tensor, return_N: torch.Tensor, limit: float) -> torch.Tensor:
    """PPO's clipped value loss at each choice, shape (N,): 0.5 max((V - R)^2, (clip(V, old +- limit) - R)^2).

    As in OpenAI's baselines (arXiv 2005.12729, eq. 2).
    """
    near_N = torch.minimum(torch.maximum(value_N, old_N - limit), old_N + limit)
    return 0.5 * torch.maximum((value_N - return_N) ** 2, (near_N - return_N) ** 2)


def dpo(
    logprob_R: torch.Tensor, reference_R: torch.Tensor, pairs: Sequence[tuple[int, int]], beta: float
) -> torch.Tensor:
    """Mean over pairs of -log sigmoid(beta (log-ratio of the better - of the worse)) (arXiv 2305.18290, eq. 7).

    Args:
        logprob_R: logprob of each rollout, summed over its choices, shape (R,).
        reference_R: the sums before the round.
        pairs: better and worse rollout.
        beta: beta of the paper.
    """
    ratio_R = logprob_R - reference_R
    better_P, worse_P = ratio_R[[pair[0] for pair in pairs]], ratio_R[[pair[1] for pair in pairs]]
    return -torch.nn.functional.logsigmoid(beta * (better_P - worse_P)).mean()


def kto(logprob_R: torch.Tensor, reference_R: torch.Tensor, good: Sequence[bool], beta: float) -> torch.Tensor:
    """Mean over rollouts of 1 - sigmoid(beta (ratio - z)) if good, else 1 - sigmoid(beta (z - ratio)).

    Arguments as for `dpo` (arXiv 2402.01306, eq. 7). The KL to the reference, z, is estimated by the batch's mean
    log-ratio, not below 0, without gradient. The paper estimates z on mismatched outputs, because its outputs are
    not the policy's own; here the outputs are.
    """
    ratio_R = logprob_R - reference_R
    shift = ratio_R.detach().mean().clamp_min(0)
    sign_R = torch.tensor([1.0 if each else -1.0 for each in good], device=ratio_R.device)
    return (1 - torch.sigmoid(beta * sign_R * (ratio_R - shift))).mean()


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
        temperature: divisor of the logits.

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
        logprob_KV = torch.log_softmax(logit_KV.float() / temperature, -1)
        parts.append((logprob_KV[row_N[free], token_N[free]], _entropy(logprob_KV)[row_N[free]]))
    back = torch.tensor(bound + free, device=logit_KV.device).argsort()
    return torch.cat([logprob for logprob, _ in parts])[back], torch.cat([entropy for _, entropy in parts])[back]


def _restricted(
    logit_KV: torch.Tensor,
    row_N: torch.Tensor,
    token_N: torch.Tensor,
    ids: Sequence[tuple[int, ...]],
    temperature: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Read only the allowed columns (suffix A: padded to the longest list) of a wide vocabulary."""
    padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(each) for each in ids], batch_first=True, padding_value=-1)
    ids_NA = padded.to(logit_KV.device)
    logit_NA = logit_KV[row_N[:, None], ids_NA.clamp_min(0)].float().masked_fill(ids_NA < 0, float("-inf"))
    logprob_NA = torch.log_softmax(logit_NA / temperature, -1)
    column_N = (ids_NA == token_N[:, None]).int().argmax(-1)
    return logprob_NA.gather(-1, column_N[:, None])[:, 0], _entropy(logprob_NA)


def _entropy(logprob_NV: torch.Tensor) -> torch.Tensor:
    entropy_N: torch.Tensor = torch.special.entr(logprob_NV.detach().exp()).sum(-1)
    return entropy_N
