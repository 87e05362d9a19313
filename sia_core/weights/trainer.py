"""Training a LoRA adapter on recorded rollouts, with torch and PEFT.

Runs in a process of its own (see launcher). Everything is deterministic: rows are ordered by
unit key, there is no dropout, and the only random numbers, a new adapter's first weights, come
from the spec's seed. A checkpoint is a directory that appears whole; training on from it
gives the same bits as never having stopped.
"""

import json
import os
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from sia_core.candidate import Adapter
from sia_core.errors import PolicyError
from sia_core.hashing import canonical_json
from sia_core.policy.base import ADAPTER_FILES, adapter_digest, base_digest, check_adapter
from sia_core.policy.local import load_base
from sia_core.rollout import Rollout
from sia_core.weights.losses import choice_logprobs, clipped_policy_loss
from sia_core.weights.packing import Pack, pack
from sia_core.weights.rows import Batch, Choice, make_batch
from sia_core.weights.spec import UpdateSpec

TOKENS_PER_PACK = 512
MAX_GRAD_NORM = 1.0


@dataclass(frozen=True)
class StepMetrics:
    """What one optimiser step saw, averaged over choices where it is a mean."""

    loss: float
    reward: float
    kl: float
    gap: float
    """Mean absolute difference between recorded and current logprobs."""
    entropy: float
    clipped: float
    grad_norm: float
    choices: int
    sequences: int
    tokens: int
    """Ids fed forward."""
    constant_groups: float


class Trainer:
    """One update in progress."""

    def __init__(self, base: Path, spec: UpdateSpec, parent: Path | None, *, threads: int) -> None:
        torch.set_num_threads(threads)
        self._spec = spec
        self._base = base_digest(base)
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        if spec.parent_adapter is not None and parent is not None:
            check_adapter(Adapter(spec.parent_adapter, parent), self._base)
        elif spec.parent_adapter is not None or parent is not None:
            raise PolicyError(f"parent adapter {spec.parent_adapter} is to be trained further, {parent} was given")
        model = load_base(base)
        self._pack = TOKENS_PER_PACK if _sees_all(model.config) else 0
        torch.manual_seed(spec.seed)
        if parent is not None:
            self._model: Any = PeftModel.from_pretrained(model, parent, is_trainable=True)
        else:
            config = LoraConfig(
                r=spec.rank, lora_alpha=spec.rank, lora_dropout=0.0, bias="none", target_modules="all-linear"
            )
            self._model = get_peft_model(model, config)
        self._model.to(self._device).train()
        self._parameters = {n: p for n, p in self._model.named_parameters() if p.requires_grad}
        self._optimizer = torch.optim.Adam(self._parameters.values(), lr=spec.learning_rate, betas=(0.9, 0.95))
        self.round = 0

    def train(self, rollouts: Sequence[Rollout]) -> list[StepMetrics]:
        """The spec's steps on one round's rollouts; no step when every group is constant.

        Raises:
            PolicyError: recomputed logprobs are not the recorded ones: wrong base, adapter or temperature.
        """
        batch = make_batch(rollouts, self._spec.algorithm)
        scores = [rollout.score for rollout in rollouts if rollout.score is not None]
        reward = sum(scores) / max(len(scores), 1)
        metrics: list[StepMetrics] = []
        for step in range(self._spec.steps if batch.choices else 0):
            found = self._step(batch, reward, first=step == 0)
            metrics.append(found)
            if found.kl > self._spec.max_kl:
                break
        self.round += 1
        return metrics

    def _step(self, batch: Batch, reward: float, *, first: bool) -> StepMetrics:
        self._optimizer.zero_grad(set_to_none=True)
        sums = dict.fromkeys(("loss", "kl", "gap", "entropy", "clipped"), 0.0)
        tokens = 0
        choices_of = defaultdict(list)
        for choice in batch.choices:
            choices_of[choice.sequence].append(choice)
        for part in pack(batch.sequences, self._pack):
            choices = [choice for index in part.paths for choice in choices_of[index]]
            logprob_N, entropy_N = self._logprobs(part, choices)
            loss = clipped_policy_loss(
                logprob_N,
                torch.tensor([choice.logprob for choice in choices], device=self._device),
                torch.tensor([choice.advantage for choice in choices], device=self._device),
                clip_low=self._spec.clip_low,
                clip_high=self._spec.clip_high,
                rollouts=batch.rollouts,
            )
            loss.loss.backward()  # type: ignore[no-untyped-call]
            sums["loss"] += float(loss.loss.detach())
            sums["kl"] += loss.kl
            sums["gap"] += loss.gap
            sums["clipped"] += loss.clipped
            sums["entropy"] += float(entropy_N.sum())
            tokens += len(part.ids)
        count = len(batch.choices)
        means = {name: value / count for name, value in sums.items() if name != "loss"}
        # Not <=, rather than >: a gap that is no number is refused too.
        if first and not means["gap"] <= self._spec.max_gap:
            raise PolicyError(
                f"recorded and recomputed logprobs differ by {means['gap']:.4f} on average "
                f"(limit {self._spec.max_gap}): these rollouts were not sampled by this base and adapter",
                where="weight update",
            )
        norm = float(torch.nn.utils.clip_grad_norm_(self._parameters.values(), MAX_GRAD_NORM))
        if not isfinite(norm):
            raise PolicyError(f"the gradient's norm is {norm}", where="weight update", hint="lower the learning rate")
        if means["kl"] <= self._spec.max_kl:
            self._optimizer.step()
        return StepMetrics(
            loss=sums["loss"],
            reward=reward,
            grad_norm=norm,
            choices=count,
            sequences=len(batch.sequences),
            tokens=tokens,
            constant_groups=batch.constant_groups / batch.groups,
            **means,
        )

    def _logprobs(self, part: Pack, choices: Sequence[Choice]) -> tuple[torch.Tensor, torch.Tensor]:
        """Forward a pack and read every choice's logprob and entropy, each of shape (N,)."""
        nodes = [part.paths[choice.sequence][choice.position] for choice in choices]
        kept = sorted(set(nodes))
        row = {node: index for index, node in enumerate(kept)}
        # A single sequence needs no mask, and only nodes that were sampled from pass the output layer:
        # the vocabulary is the widest one.
        logit_KV = self._model(
            input_ids=self._tensor([part.ids]),
            position_ids=self._tensor([part.depths]),
            attention_mask=part.mask().to(self._device) if len(part.paths) > 1 else None,
            logits_to_keep=self._tensor(kept),
            use_cache=False,
        ).logits[0]
        return choice_logprobs(
            logit_KV,
            self._tensor([row[node] for node in nodes]),
            self._tensor([choice.token for choice in choices]),
            [choice.allowed for choice in choices],
            self._spec.temperature,
        )

    def _tensor(self, values: object) -> torch.Tensor:
        return torch.tensor(values, device=self._device)

    def save(self, folder: Path, metrics: Sequence[StepMetrics]) -> Adapter:
        """Write a checkpoint directory that is complete or absent, and return its adapter."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".saving-"))
        self._write_adapter(staging / "adapter")
        save_file(self._optimizer_tensors(), staging / "optimizer.safetensors")
        digest = adapter_digest(staging / "adapter")
        manifest = {
            "spec": asdict(self._spec),
            "spec_id": self._spec.id,
            "base": self._base,
            "round": self.round,
            "adapter": digest,
            "metrics": [asdict(step) for step in metrics],
        }
        (staging / "manifest.json").write_text(json.dumps(manifest, indent=1))
        for file in staging.rglob("*"):
            if file.is_file():
                with file.open("rb") as written:
                    os.fsync(written.fileno())
        shutil.rmtree(folder, ignore_errors=True)
        staging.rename(folder)
        return Adapter(digest, folder / "adapter")

    def _write_adapter(self, folder: Path) -> None:
        """The files that PEFT writes, with the same bytes in every process and on every machine."""
        self._model.save_pretrained(folder, save_embedding_layers=False)
        for file in folder.iterdir():
            if file.name not in ADAPTER_FILES:
                file.unlink()
        config = json.loads((folder / ADAPTER_FILES[0]).read_text())
        # PEFT keeps the names in a set, whose order differs from process to process, and the path of this machine.
        config["target_modules"] = sorted(config["target_modules"])
        config["base_model_name_or_path"] = f"sha256:{self._base}"
        (folder / ADAPTER_FILES[0]).write_bytes(canonical_json(config))

    def load(self, folder: Path) -> None:
        """Go on from a checkpoint.

        Raises:
            PolicyError: a checkpoint of another spec or base model.
        """
        manifest = json.loads((folder / "manifest.json").read_text())
        for name, expected in (("spec_id", self._spec.id), ("base", self._base)):
            if manifest[name] != expected:
                raise PolicyError(f"checkpoint has {name} {manifest[name]!r}, not {expected!r}", where=str(folder))
        weights = load_file(folder / "adapter" / "adapter_model.safetensors")
        state = {name.replace(".weight", ".default.weight"): tensor for name, tensor in weights.items()}
        missing = set(self._parameters) - set(state)
        if missing:
            raise PolicyError(f"checkpoint lacks {min(missing)}", where=str(folder))
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                parameter.copy_(state[name])
        self._optimizer.state.clear()
        optimizer = load_file(folder / "optimizer.safetensors")
        for name, parameter in self._parameters.items():
            entries = {key: optimizer[f"{name}/{key}"] for key in ("step", "exp_avg", "exp_avg_sq") if optimizer}
            if entries:
                moved = {key: value if key == "step" else value.to(self._device) for key, value in entries.items()}
                self._optimizer.state[parameter] = moved
        self.round = manifest["round"]

    def _optimizer_tensors(self) -> dict[str, torch.Tensor]:
        return {
            f"{name}/{key}": value.detach().clone()
            for name, parameter in self._parameters.items()
            for key, value in self._optimizer.state.get(parameter, {}).items()
        }


def _sees_all(config: Any) -> bool:
    """Whether every layer attends to the whole context."""
    kinds = getattr(config.get_text_config(), "layer_types", None) or ["full_attention"]
    return set(kinds) == {"full_attention"} and not getattr(config, "use_sliding_window", False)
