"""best_of_n, dpo and kto through TRL's SFTTrainer, DPOTrainer and KTOTrainer, on recorded ids.

TRL is given ids and masks, and its tokenising step (`_prepare_dataset` of DPO and KTO, which has no switch)
is overridden to do nothing, so that no text is tokenised again. TRL trains our model with our optimiser, in the
order given: no random number is drawn.

An update trains here only where its backend is `trl`. A batch that TRL 1.16 cannot take (spec.why_not_trl) is refused.

dpo and kto are relative to the policy at the start of the round: TRL keeps a copy of its adapter, named `ref`.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.kto_config import KTOConfig
from trl.trainer.kto_trainer import KTOTrainer
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from sia_core.policy.local.loading import load_tokenizer
from sia_core.weights.rows import Batch, Choice
from sia_core.weights.spec import UpdateSpec

MICRO_BATCH = 8
_IGNORED: Final = -100

Example = dict[str, Any]


class _Watch(TrainerCallback):
    def __init__(self, goes_on: Callable[[], bool]) -> None:
        self._goes_on = goes_on

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Stop after a step if the caller says so."""
        control.should_training_stop |= not self._goes_on()


class _Ids:
    """Mixin for a TRL trainer that leaves the data set unchanged."""

    def _prepare_dataset(self, dataset: Dataset, *_: object, **__: object) -> Dataset:
        return dataset


class _DPO(_Ids, DPOTrainer):
    pass


class _KTO(_Ids, KTOTrainer):
    pass


def train_with_trl(
    model: Any,
    base: Path,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    spec: UpdateSpec,
    goes_on: Callable[[], bool],
) -> list[Mapping[str, float]]:
    """Make the spec's steps on a batch; return TRL's log entry of each, with `loss` and `grad_norm`.

    Args:
        model: a PEFT model, changed in place.
        base: directory of its tokenizer.
        optimizer: optimiser of the adapter's parameters.
        batch: a batch that `why_not_trl` accepts.
        spec: algorithm, steps, learning rate, beta.
        goes_on: called after each step; False stops.
    """
    examples = _examples(batch, spec.algorithm)
    with tempfile.TemporaryDirectory() as folder:
        kind, config = _kind(spec, _arguments(spec, folder, len(examples), use_cpu=model.device.type == "cpu"))
        trainer = kind(
            model=model,
            args=config,
            train_dataset=Dataset.from_list(examples),
            processing_class=load_tokenizer(base),
            optimizers=(optimizer, None),
            data_collator=None if spec.algorithm == "best_of_n" else _collate,
            callbacks=[_Watch(goes_on)],
        )
        trainer.train()
    if "ref" in model.peft_config:
        model.delete_adapter("ref")
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def _kind(spec: UpdateSpec, arguments: Mapping[str, Any]) -> tuple[Any, Any]:
    """TRL's trainer of an algorithm, and its configuration."""
    if spec.algorithm == "best_of_n":
        return SFTTrainer, SFTConfig(**arguments, dataset_kwargs={"skip_prepare_dataset": True})
    if spec.algorithm == "dpo":
        return _DPO, DPOConfig(**arguments, beta=spec.beta)
    return _KTO, KTOConfig(**arguments, beta=spec.beta)


def _arguments(spec: UpdateSpec, folder: str, size: int, *, use_cpu: bool) -> dict[str, Any]:
    """Settings that TRL's three trainers share: each optimiser step reads the whole batch, in its order."""
    micro = _micro_batch(size, at_least=2 if spec.algorithm == "kto" else 1)
    return {
        "output_dir": folder,
        "max_steps": spec.steps,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": size // micro,
        "learning_rate": spec.learning_rate,
        "lr_scheduler_type": "constant",
        "max_length": None,
        "train_sampling_strategy": "sequential",
        "gradient_checkpointing": spec.checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": False} if spec.checkpointing else None,
        "use_cpu": use_cpu,
        "bf16": False,
        "remove_unused_columns": False,
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 1,
        "logging_strategy": "steps",
        "disable_tqdm": True,
        "seed": spec.seed,
    }


def _micro_batch(size: int, at_least: int) -> int:
    """Return the largest size up to MICRO_BATCH that divides a batch evenly, as TRL averages over parts."""
    parts = [part for part in range(at_least, MICRO_BATCH + 1) if size % part == 0]
    return max(parts, default=size)


def _examples(batch: Batch, algorithm: str) -> list[Example]:
    rows = _rows(batch)
    if algorithm == "dpo":
        return [{"better": _flat(rows[better]), "worse": _flat(rows[worse])} for better, worse in batch.pairs]
    if algorithm == "kto":
        # For the KL, each prompt gets the output of the rollout before it.
        other = [_joined(row, rows[at - 1]) for at, row in enumerate(rows)]
        return [
            {"own": _flat(row), "other": _flat(mismatched), "label": good}
            for row, mismatched, good in zip(rows, other, batch.good, strict=True)
        ]
    return [
        {"input_ids": ids, "labels": [token if on else _IGNORED for token, on in zip(ids, mask, strict=True)]}
        for ids, mask in rows
    ]


def _rows(batch: Batch) -> list[tuple[list[int], list[int]]]:
    """Ids and mask of each rollout: 1 where a token was sampled."""
    of: list[list[Choice]] = [[] for _ in range(batch.rollouts)]
    for choice in batch.choices:
        of[choice.rollout].append(choice)
    found = []
    for choices in of:
        last = choices[-1]
        ids = [*batch.sequences[last.sequence][: last.position + 1], last.token]
        sampled = {choice.position + 1 for choice in choices}
        found.append((ids, [int(at in sampled) for at in range(len(ids))]))
    return found


def _joined(prompt: tuple[list[int], list[int]], output: tuple[list[int], list[int]]) -> tuple[list[int], list[int]]:
    begin, end = prompt[1].index(1), output[1].index(1)
    return prompt[0][:begin] + output[0][end:], prompt[1][:begin] + output[1][end:]


def _flat(row: tuple[list[int], list[int]]) -> list[list[int]]:
    return [row[0], row[1]]


def _collate(examples: Sequence[Example]) -> dict[str, torch.Tensor]:
    """Collate as TRL's own collators do, from masks: better rollouts, then worse; or own and other outputs."""
    if "better" in examples[0]:
        return _padded([example["better"] for example in examples] + [example["worse"] for example in examples])
    other = _padded([example["other"] for example in examples])
    return {
        **_padded([example["own"] for example in examples]),
        **{f"KL_{name}": value for name, value in other.items()},
        "label": torch.tensor([example["label"] for example in examples]),
    }


def _padded(rows: Sequence[Sequence[Sequence[int]]]) -> dict[str, torch.Tensor]:
    def pad(values: Sequence[Sequence[int]]) -> torch.Tensor:
        return torch.nn.utils.rnn.pad_sequence([torch.tensor(each) for each in values], batch_first=True)

    return {
        "input_ids": pad([ids for ids, _ in rows]),
        "attention_mask": pad([[1] * len(ids) for ids, _ in rows]),
        "completion_mask": pad([mask for _, mask in rows]),
    }
