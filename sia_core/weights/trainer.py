"""Training a LoRA adapter on recorded rollouts, with torch and PEFT.

The trainer has its own process (see launcher). Training is deterministic: rows are ordered by unit
key, there is no dropout, and the only random numbers, a new adapter's first weights, come from the
spec's seed. A checkpoint directory is complete or absent. Continuing from a checkpoint gives the same
bits as an uninterrupted run; an interrupted round is trained again from the checkpoint before it.
"""

import os
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from math import isfinite
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoTokenizer

from sia_core.domain.candidate import Adapter
from sia_core.domain.errors import PolicyError
from sia_core.domain.rollout import Rollout
from sia_core.policy.adapter_files import refuse_missing_keys
from sia_core.policy.base import check_adapter
from sia_core.policy.local import PROBE, load_base
from sia_core.weights.algorithms import ALGORITHMS
from sia_core.weights.checkpoint import (
    optimizer_tensors,
    read_adapter,
    read_optimizer,
    write_adapter,
    write_checkpoint,
)
from sia_core.weights.forward import Forward, Pass
from sia_core.weights.groups import batch_digest
from sia_core.weights.losses import kl_to_base, policy_loss, value_loss
from sia_core.weights.manifest import check_manifest, identify, read_manifest
from sia_core.weights.metrics import StepMetrics, mean_reward, step_metrics
from sia_core.weights.rows import Batch
from sia_core.weights.spec import UpdateSpec, batch_of, refuse_backend
from sia_core.weights.targets import Measured, Targets, make_targets, with_coefficients
from sia_core.weights.value import ValueHead

MAX_GRAD_NORM = 1.0
REFERENCE_SPREAD = 0.01
"""Standard deviation of the reference adapter's weights B: the effect of a few steps of training."""
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Trainer:
    """Trainer of one update in progress."""

    def __init__(
        self, base: Path, spec: UpdateSpec, parent: Path | None, *, threads: int, device: str = "auto"
    ) -> None:
        """Load the base model with its adapter.

        Args:
            base: directory of the base model.
            spec: the update.
            parent: files of the adapter that the spec names.
            threads: number of CPU threads.
            device: cpu, cuda, or auto for cuda if there is a device.

        Raises:
            PolicyError: the parent is not the spec's, or there is no such device.
        """
        torch.set_num_threads(threads)
        self._spec = spec
        self._algorithm = ALGORITHMS[spec.algorithm]
        fixed = self._algorithm.loss in ("cross_entropy", "dpo", "kto")
        self._loss = self._algorithm.loss if fixed else spec.loss or self._algorithm.loss
        self._path = base
        self._identity = identify(base)
        self._device = pick_device(device)
        be_deterministic(self._device)
        if spec.parent_adapter is not None and parent is not None:
            check_adapter(Adapter(spec.parent_adapter, parent), self._identity["base"], base)
        elif spec.parent_adapter is not None or parent is not None:
            raise PolicyError(f"expected parent adapter {spec.parent_adapter}, got {parent}")
        model = load_base(base).to(_DTYPES[spec.dtype])
        if spec.checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        torch.manual_seed(spec.seed)
        if parent is not None:
            with refuse_missing_keys(parent):
                self._model: Any = PeftModel.from_pretrained(model, parent, is_trainable=True)
        else:
            config = LoraConfig(
                r=spec.rank, lora_alpha=spec.rank, lora_dropout=0.0, bias="none", target_modules="all-linear"
            )
            self._model = get_peft_model(model, config)
        self._model.to(self._device).train()
        self._parameters = {n: p for n, p in self._model.named_parameters() if p.requires_grad}
        groups: list[dict[str, Any]] = [{"params": list(self._parameters.values())}]
        self._head: ValueHead | None = None
        if self._algorithm.needs.value_head:
            self._head = ValueHead(model.config.get_text_config().hidden_size).to(self._device)
            groups.append({"params": list(self._head.parameters()), "lr": spec.value_learning_rate})
        self._forward = Forward(self._model, spec.temperature, head=self._head)
        self._optimizer = torch.optim.Adam(groups, lr=spec.learning_rate, betas=(0.9, 0.95))
        self._batch: str | None = None
        self.round = 0

    @property
    def _all_parameters(self) -> dict[str, torch.nn.Parameter]:
        head = self._head.named_parameters(prefix="value_head") if self._head is not None else ()
        return {**self._parameters, **dict(head)}

    def train(self, rollouts: Sequence[Rollout]) -> list[StepMetrics]:
        """Make the spec's steps on one round's rollouts; no step when there is nothing to learn from.

        Raises:
            PolicyError: recomputed logprobs differ from the recorded ones (wrong base, adapter or temperature), the
                first round's rollouts differ from those that the spec names, or the backend cannot train this batch.
        """
        self._batch = batch_digest(rollouts)
        if self.round == 0 and self._spec.batch not in (None, self._batch):
            what = f"these rollouts have batch digest {self._batch}, the update is for {self._spec.batch}"
            raise PolicyError(what, where="weight update")
        batch = batch_of(rollouts, self._spec)
        metrics: list[StepMetrics] = []
        if batch.choices:
            refusal = refuse_backend(batch, self._spec)
            if refusal is not None:
                raise PolicyError(refusal, where="weight update")
            take_steps = {"own": self._own_steps, "trl": self._trl_steps}[self._spec.backend]
            metrics = take_steps(batch, self._targets(batch), mean_reward(rollouts))
        self.round += 1
        return metrics

    def _own_steps(self, batch: Batch, targets: Targets, reward: tuple[float, float]) -> list[StepMetrics]:
        metrics: list[StepMetrics] = []
        for step in range(self._spec.steps):
            metrics.append(self._step(batch, targets, reward, first=step == 0))
            if metrics[-1].kl > self._spec.max_kl:
                break
        return metrics

    def _trl_steps(self, batch: Batch, targets: Targets, reward: tuple[float, float]) -> list[StepMetrics]:
        from sia_core.weights.trl_steps import train_with_trl  # TRL takes a second to load.

        started = perf_counter()
        seen = [self._watch(batch, targets)]
        self._check_gap(seen[0]["gap"])

        def goes_on() -> bool:
            seen.append(self._watch(batch, targets))
            return seen[-1]["kl"] <= self._spec.max_kl

        logs = train_with_trl(self._model, self._path, self._optimizer, batch, self._spec, goes_on)
        for log in logs:
            _check_norm(log["grad_norm"])
        tokens = sum(map(len, batch.sequences))
        speed = tokens * len(logs) / (perf_counter() - started)
        return [
            step_metrics(batch, reward, loss=log["loss"], grad_norm=log["grad_norm"], tokens=tokens, speed=speed, **at)
            for log, at in zip(logs, seen, strict=False)
        ]

    def _watch(self, batch: Batch, targets: Targets) -> dict[str, float]:
        """KL, gap and entropy of the current model."""
        now = self._measure(batch)
        zero_N = torch.zeros_like(now.logprob)
        found = policy_loss("cross_entropy", now.logprob, targets.recorded, zero_N, zero_N, self._spec)
        count = len(batch.choices)
        return {"kl": found.kl / count, "gap": found.gap / count, "entropy": float(now.entropy.mean())}

    def _check_gap(self, gap: float) -> None:
        # Not <=, rather than >, refuses NaN too.
        if not gap <= self._spec.max_gap:
            raise PolicyError(
                f"recorded and recomputed logprobs differ by {gap:.4f} on average "
                f"(limit {self._spec.max_gap}): these rollouts were not sampled by this base and adapter, or by a "
                "server that rounds more coarsely",
                where="weight update",
                hint="start a vLLM server with --dtype float32, on a GPU with --dtype float16",
            )

    def _targets(self, batch: Batch) -> Targets:
        """Compute the targets of a round that begins now."""
        unrecorded = any(choice.logprob is None for choice in batch.choices)
        before = self._measure(batch) if self._head is not None or unrecorded else None
        base = None
        if self._spec.kl_base > 0:
            with self._model.disable_adapter():
                base = self._measure(batch)
        return make_targets(batch, self._spec, before, base)

    @torch.no_grad()
    def _measure(self, batch: Batch) -> Measured:
        """Logprob, entropy and value of every choice under the current model."""
        found = torch.zeros(3, len(batch.choices))
        for part in self._forward.passes(batch.sequences, batch.choices):
            found[0, part.index], found[1, part.index] = part.logprob.cpu(), part.entropy.cpu()
            if part.value is not None:
                found[2, part.index] = part.value.cpu()
        return Measured(found[0], found[1], found[2] if self._head is not None else None)

    def _step(
        self, batch: Batch, targets: Targets, reward: tuple[float, float] = (0.0, 0.0), *, first: bool
    ) -> StepMetrics:
        started = perf_counter()
        self._optimizer.zero_grad(set_to_none=True)
        if self._algorithm.loss in ("dpo", "kto"):
            targets = with_coefficients(targets, batch, self._spec, self._measure(batch).logprob)
        sums = dict.fromkeys(("loss", "kl", "kl_base", "gap", "entropy", "clipped", "value_loss"), 0.0)
        tokens = 0
        for part in self._forward.passes(batch.sequences, batch.choices):
            self._accumulate(part, targets.at(part.index), sums)
            tokens += part.tokens
        count = len(batch.choices)
        means = {name: value / count for name, value in sums.items() if name not in ("loss", "value_loss")}
        if first:
            self._check_gap(means["gap"])
        norm = float(torch.nn.utils.clip_grad_norm_(self._parameters.values(), MAX_GRAD_NORM))
        _check_norm(norm)
        if means["kl"] <= self._spec.max_kl:
            self._optimizer.step()
        return step_metrics(
            batch,
            reward,
            loss=sums["loss"] if targets.fixed_loss is None else targets.fixed_loss,
            grad_norm=norm,
            tokens=tokens,
            speed=tokens / (perf_counter() - started),
            value_loss=sums["value_loss"],
            **means,
        )

    def _accumulate(self, part: Pass, here: Targets, sums: dict[str, float]) -> None:
        """Add a pass's gradient to the parameters', and its metrics to the sums."""
        logprob_N, value_N = part.logprob, part.value
        weight_N = here.weight.to(self._device)
        found = policy_loss(
            self._loss,
            logprob_N,
            here.recorded.to(self._device),
            here.advantage.to(self._device),
            weight_N,
            self._spec,
        )
        loss = found.loss
        if here.base is not None:
            kl_N = kl_to_base(logprob_N, here.base.to(self._device))
            loss = loss + self._spec.kl_base * (weight_N * kl_N).sum()
            sums["kl_base"] += float(kl_N.detach().sum())
        sums["loss"] += float(loss.detach())
        if value_N is not None and here.value is not None and here.returns is not None:
            old_N, return_N = here.value.to(self._device), here.returns.to(self._device)
            off = (weight_N * value_loss(value_N, old_N, return_N, self._spec.value_clip)).sum()
            sums["value_loss"] += float(off.detach())
            loss = loss + off
        loss.backward()  # type: ignore[no-untyped-call]
        sums["kl"] += found.kl
        sums["gap"] += found.gap
        sums["clipped"] += found.clipped
        sums["entropy"] += float(part.entropy.sum())

    def save(self, folder: Path, metrics: Sequence[StepMetrics]) -> Adapter:
        """Write a checkpoint directory that is complete or absent, and return its adapter."""
        tensors = {"optimizer": optimizer_tensors(self._optimizer, self._all_parameters)}
        if self._head is not None:
            tensors["value_head"] = dict(self._head.state_dict())
        manifest = {
            "spec": asdict(self._spec),
            "spec_id": self._spec.id,
            "backend": self._spec.backend,
            "trl": version("trl") if self._spec.backend == "trl" else None,
            **self._identity,
            "batch": self._batch,
            "round": self.round,
            "fallback": self._forward.fallback,
            "probe": self._probe(),
            "metrics": [asdict(step) for step in metrics],
        }
        base = self._identity["base"]
        return write_checkpoint(folder, lambda path: write_adapter(self._model, base, path), tensors, manifest)

    @torch.no_grad()
    def save_reference(self, folder: Path) -> Adapter:
        """Write an adapter with a small, known effect, for `serving`; its manifest has the probes `bare` and `probe`.

        Call it on a new adapter, whose effect is 0.
        """
        bare = self._probe()
        torch.manual_seed(self._spec.seed)
        for name, parameter in sorted(self._parameters.items()):
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape) * REFERENCE_SPREAD)
        manifest = {"spec_id": self._spec.id, **self._identity, "bare": bare, "probe": self._probe()}
        base = self._identity["base"]
        return write_checkpoint(folder, lambda path: write_adapter(self._model, base, path), {}, manifest)

    @torch.no_grad()
    def _probe(self) -> list[float]:
        """Logprobs of the text that identifies the engine's adapter (serving), in the form of `policy.probe`."""
        ids = AutoTokenizer.from_pretrained(self._path).encode(PROBE, add_special_tokens=False)
        self._model.eval()
        logit_TV = self._model(input_ids=torch.tensor([ids], device=self._device), use_cache=False).logits[0]
        self._model.train()
        logprob_TV = torch.log_softmax(logit_TV.float(), -1)
        return [float(logprob_TV[at, token]) for at, token in enumerate(ids[1:])]

    def load(self, folder: Path) -> None:
        """Continue from a checkpoint.

        Raises:
            PolicyError: no checkpoint, or one of another spec, base model, tokenizer or chat template.
        """
        manifest = read_manifest(folder)
        if manifest is None:
            raise PolicyError("no checkpoint", where=str(folder), hint="begin with the round after the last one there")
        check_manifest(manifest, {"spec_id": self._spec.id, **self._identity}, folder)
        read_adapter(folder, self._parameters)
        if self._head is not None:
            self._head.load_state_dict(load_file(folder / "value_head.safetensors"))
        read_optimizer(folder, self._optimizer, self._all_parameters)
        self.round = manifest["round"]


def _check_norm(norm: float) -> None:
    if not isfinite(norm):
        raise PolicyError(f"the gradient's norm is {norm}", where="weight update", hint="lower the learning rate")


def be_deterministic(device: str) -> None:
    """Make equal rollouts give equal bits; by default, several threads add in any order (index_put_).

    On CUDA, operations without a fixed order only warn.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # Read when CUDA is first used.
    torch.use_deterministic_algorithms(True, warn_only=device == "cuda")


def pick_device(name: str) -> str:
    """Return `cpu` or `cuda`; `auto` is cuda if there is a device.

    Raises:
        PolicyError: cuda is requested, and there is no device.
    """
    seen = torch.cuda.is_available()
    if name == "cuda" and not seen:
        raise PolicyError(
            "no CUDA device found",
            where="weight update",
            hint='under [resources] in task.toml, set train_gpus (Ray reserves a GPU) or train_device = "auto"',
        )
    return "cuda" if seen and name != "cpu" else "cpu"
