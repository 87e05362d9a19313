"""Specification of a weight update: frozen, content-addressed, refused when it cannot work. Loads no torch."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from sia_core.domain.backend import TRL_ALGORITHMS, Backend
from sia_core.domain.hashing import digest_json
from sia_core.domain.rollout import Rollout
from sia_core.policy.probes import MAX_GAP
from sia_core.weights import preconditions
from sia_core.weights.rows import Batch, make_batch


@dataclass(frozen=True)
class UpdateSpec:
    """All settings that decide the result of an update on given rollouts."""

    parent_adapter: str | None
    """Digest of the adapter trained further; None starts a new one on the bare policy."""
    rounds: int
    """On-policy rounds: rollouts, steps, new adapter."""
    steps: int
    """Optimiser steps on each round's rollouts; each reads all of them."""
    learning_rate: float
    rank: int
    """LoRA rank and alpha. Ignored when a parent adapter is trained further."""
    temperature: float
    """Sampling temperature of the rollouts; the trainer divides logits by it."""
    seed: int
    """Seed of the new adapter's initialisation."""
    reason: str = ""
    expected_gain: float = 0.0
    algorithm: str = "dr_grpo"
    """A name in `algorithms.ALGORITHMS`."""
    backend: Backend = "own"
    """Trainer of the steps. A backend that cannot train a batch fails; no other one is taken in its place."""
    batch: str | None = None
    """Digest of the first round's rollouts (`groups.batch_digest`); others are refused. None takes any."""
    loss: Literal["clip", "importance", "cispo"] | None = None
    """Loss in place of the algorithm's own; not for dpo, kto and best_of_n."""
    clip_low: float = 0.2
    clip_high: float = 0.28
    dual_clip: float | None = None
    """Bound of the clipped loss where the advantage is negative, as a multiple of the advantage; 3 is usual."""
    cap: float = 2.0
    """Greatest importance weight of the loss `importance`."""
    kl_base: float = 0.0
    """Weight of the KL to the bare policy; with 0 the KL is not computed."""
    gamma: float = 1.0
    """ppo: discount from one sampled token to the next."""
    lam: float = 1.0
    """ppo: lambda of generalised advantage estimation."""
    value_learning_rate: float = 1e-2
    value_clip: float = 0.5
    """ppo: distance that values may move in a round before the loss is clipped."""
    beta: float = 0.1
    """dpo, kto: strength with which a preference moves the policy away from the one at the round's start."""
    margin: float | None = None
    """dpo: least difference of scores within a pair; None takes half the deviation within groups."""
    threshold: float | None = None
    """best_of_n: least score that is cloned. kto: least score that is good; None takes the batch's mean."""
    dtype: Literal["fp32", "bf16"] = "fp32"
    """Precision of the frozen base model during training; the adapter and the optimiser stay in fp32."""
    checkpointing: bool = False
    """Recompute each layer for the gradient instead of keeping activations: less memory, the same gradient."""
    max_gap: float = MAX_GAP
    """Greatest mean difference between recorded and recomputed logprobs before the first step."""
    max_kl: float = 0.5
    """Limit of the KL to the policy that sampled the round; beyond it, the round's steps end."""
    max_drift: float = 2.0
    """Limit of the sum of the rounds' KLs; beyond it, the rounds end."""
    min_entropy: float = 0.1
    """Share of the first round's entropy below which the rounds end."""

    @property
    def id(self) -> str:
        """Content address."""
        return digest_json(asdict(self))


def refuse(rollouts: Sequence[Rollout], spec: UpdateSpec) -> str | None:
    """Return the reason why an update on these rollouts cannot work, or None when it can."""
    others = {rollout.unit.adapter for rollout in rollouts} - {spec.parent_adapter}
    if others:
        return (
            f"the rollouts are of adapter {_short(others.pop())}, the update is of {_short(spec.parent_adapter)}: "
            "branch from the node that was executed"
        )
    reason = preconditions.refuse(
        rollouts, spec.algorithm, spec.temperature, margin=spec.margin, threshold=spec.threshold
    )
    if reason is None and spec.backend == "trl":
        return refuse_backend(batch_of(rollouts, spec), spec)
    return reason


def batch_of(rollouts: Sequence[Rollout], spec: UpdateSpec) -> Batch:
    """Make the batch that a spec trains on."""
    return make_batch(rollouts, spec.algorithm, margin=spec.margin, threshold=spec.threshold)


def refuse_backend(batch: Batch, spec: UpdateSpec) -> str | None:
    """Why the spec's backend cannot train a batch, and what to choose, or None when it can."""
    reason = why_not_trl(batch, spec) if spec.backend == "trl" else None
    return None if reason is None else f"backend trl cannot train this batch: {reason}; set backend to own, which can"


def why_not_trl(batch: Batch, spec: UpdateSpec) -> str | None:
    """Why TRL's trainers cannot train this batch exactly, or None when they can.

    Their logprobs are over the whole vocabulary at temperature 1, and a rollout is one sequence to them.
    """
    if spec.algorithm not in TRL_ALGORITHMS:
        return "TRL takes no recorded logprobs and no advantages"
    if any(choice.allowed is not None for choice in batch.choices):
        return "choices were restricted to some ids"
    if spec.temperature != 1:
        return f"the temperature is {spec.temperature}"
    if batch.rows != batch.rollouts or len({choice.rollout for choice in batch.choices}) < batch.rollouts:
        return "a rollout has several rows, or none"
    if spec.kl_base > 0:
        return "a KL to the base model is asked for"
    if spec.algorithm == "kto" and batch.rollouts < 2:
        return "kto compares with other outputs, and there are none"
    return None


def _short(adapter: str | None) -> str:
    return adapter[:12] if adapter else "none"
