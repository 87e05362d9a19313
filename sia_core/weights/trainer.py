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
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from sia_core.candidate import Adapter
from sia_core.errors import PolicyError
from sia_core.hashing import digest_files
from sia_core.policy.base import base_digest
from sia_core.policy.local import load_base
from sia_core.rollout import Rollout
from sia_core.weights.losses import choice_logprobs, clipped_policy_loss
from sia_core.weights.rows import Batch, Choice, make_batch
from sia_core.weights.spec import UpdateSpec

TOKENS_PER_MICROBATCH = 1024
MAX_GRAD_NORM = 1.0
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


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
        model = load_base(base)
        torch.manual_seed(spec.seed)
        if parent is not None:
            self._model: Any = PeftModel.from_pretrained(model, parent, is_trainable=True)
        else:
            config = LoraConfig(
                r=spec.rank, lora_alpha=spec.rank, lora_dropout=0.0, bias="none", target_modules="all-linear"
            )
            self._model = get_peft_model(model, config)
        # The path of this machine would make equal adapters differ.
        self._model.peft_config["default"].base_model_name_or_path = f"sha256:{self._base}"
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
        self.round += 1
        for step in range(self._spec.steps if batch.choices else 0):
            found = self._step(batch, reward, first=step == 0)
            metrics.append(found)
            if found.kl > self._spec.max_kl:
                break
        return metrics

    def _step(self, batch: Batch, reward: float, *, first: bool) -> StepMetrics:
        self._optimizer.zero_grad(set_to_none=True)
        sums = dict.fromkeys(("loss", "kl", "gap", "entropy", "clipped"), 0.0)
        tokens = 0
        for sequences, choices in _microbatches(batch):
            logprob_N, entropy_N = self._logprobs(sequences, choices)
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
            tokens += sum(map(len, sequences))
        count = len(batch.choices)
        if first and sums["gap"] / count > self._spec.max_gap:
            raise PolicyError(
                f"recorded and recomputed logprobs differ by {sums['gap'] / count:.4f} on average "
                f"(limit {self._spec.max_gap}): these rollouts were not sampled by this base and adapter",
                where="weight update",
            )
        norm = torch.nn.utils.clip_grad_norm_(self._parameters.values(), MAX_GRAD_NORM)
        self._optimizer.step()
        means = {name: value / count for name, value in sums.items() if name != "loss"}
        return StepMetrics(
            loss=sums["loss"],
            reward=reward,
            grad_norm=float(norm),
            choices=count,
            sequences=len(batch.sequences),
            tokens=tokens,
            constant_groups=batch.constant_groups / batch.groups,
            **means,
        )

    def _logprobs(
        self, sequences: Sequence[tuple[int, ...]], choices: Sequence[Choice]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Forward the sequences and read every choice's logprob and entropy, each of shape (N,)."""
        length = max(map(len, sequences))
        ids_BT = torch.zeros((len(sequences), length), dtype=torch.long)
        mask_BT = torch.zeros_like(ids_BT)
        for row, ids in enumerate(sequences):
            ids_BT[row, : len(ids)] = torch.tensor(ids)
            mask_BT[row, : len(ids)] = 1
        positions = sorted({choice.position for choice in choices})
        column = {position: index for index, position in enumerate(positions)}
        # Only positions that were sampled from pass the output layer: the vocabulary is the widest one.
        logit_BPV = self._model(
            input_ids=ids_BT.to(self._device),
            attention_mask=mask_BT.to(self._device),
            logits_to_keep=torch.tensor(positions, device=self._device),
            use_cache=False,
        ).logits
        rows = [choice.sequence for choice in choices]
        logit_NV = logit_BPV[rows, [column[choice.position] for choice in choices]]
        token_N = torch.tensor([choice.token for choice in choices], device=self._device)
        return choice_logprobs(logit_NV, token_N, [choice.allowed for choice in choices], self._spec.temperature)

    def save(self, folder: Path, metrics: Sequence[StepMetrics]) -> Adapter:
        """Write a checkpoint directory that is complete or absent, and return its adapter."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".saving-"))
        self._model.save_pretrained(staging / "adapter", save_embedding_layers=False)
        for file in (staging / "adapter").iterdir():
            if file.name not in ADAPTER_FILES:
                file.unlink()
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


def adapter_digest(folder: Path) -> str:
    """Content address of an adapter directory in PEFT layout."""
    return digest_files({name: (folder / name).read_bytes() for name in ADAPTER_FILES})


def _microbatches(batch: Batch) -> Iterator[tuple[list[tuple[int, ...]], list[Choice]]]:
    """Sequences of like length together, at most TOKENS_PER_MICROBATCH padded tokens at a time."""
    order = sorted(range(len(batch.sequences)), key=lambda index: len(batch.sequences[index]))
    choices: dict[int, list[Choice]] = {index: [] for index in order}
    for choice in batch.choices:
        choices[choice.sequence].append(choice)
    group: list[int] = []
    for index in order:
        if group and (len(group) + 1) * len(batch.sequences[index]) > TOKENS_PER_MICROBATCH:
            yield _microbatch(batch, group, choices)
            group = []
        group.append(index)
    yield _microbatch(batch, group, choices)


def _microbatch(
    batch: Batch, group: Sequence[int], choices: dict[int, list[Choice]]
) -> tuple[list[tuple[int, ...]], list[Choice]]:
    renumbered = [
        Choice(row, choice.position, choice.token, choice.allowed, choice.logprob, choice.advantage)
        for row, index in enumerate(group)
        for choice in choices[index]
    ]
    return [batch.sequences[index] for index in group], renumbered
