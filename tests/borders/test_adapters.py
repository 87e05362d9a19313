"""Adapters that do not fit the model, or are broken, are refused by name before a model answers with them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sia_core.domain.candidate import Adapter
from sia_core.domain.errors import PolicyError
from sia_core.policy.base import adapter_digest, base_digest, check_adapter
from sia_core.policy.local import LocalPolicy
from sia_core.weights.trainer import Trainer
from tests.weights.test_weights import SPEC

Weights = dict[str, torch.Tensor]
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@pytest.fixture(scope="module")
def trained(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a sound adapter with weights that are not 0."""
    trainer = Trainer(tiny_model, SPEC, None, threads=1)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in trainer._parameters.values():
            parameter.normal_(std=0.2)
    return trainer.save(tmp_path_factory.mktemp("adapter") / "checkpoint", []).path


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "adapter"))


def change_weights(adapter: Path, change: Callable[[Weights], Weights]) -> None:
    save_file(change(load_file(adapter / WEIGHTS)), adapter / WEIGHTS)


def change_config(adapter: Path, **changed: object) -> None:
    config = json.loads((adapter / CONFIG).read_text())
    (adapter / CONFIG).write_text(json.dumps({**config, **changed}))


def refusal(adapter: Path, base: Path) -> PolicyError:
    with pytest.raises(PolicyError) as refused:
        check_adapter(Adapter(adapter_digest(adapter), adapter), base_digest(base), base)
    return refused.value


def test_sound_adapter_is_taken(copy: Path, tiny_model: Path) -> None:
    check_adapter(Adapter(adapter_digest(copy), copy), base_digest(tiny_model), tiny_model)


def test_adapter_whose_modules_the_model_lacks_is_refused(copy: Path, tiny_model: Path) -> None:
    change_weights(
        copy,
        lambda found: {
            name.replace("self_attn", "attention"): one for name, one in found.items() if "self_attn" in name
        },
    )
    error = refusal(copy, tiny_model)
    assert "none of its 8 modules is in the model" in error.what and "attention.k_proj" in error.what
    assert str(copy) in error.where and error.hint


def test_adapter_with_half_of_its_modules_renamed_is_refused(copy: Path, tiny_model: Path) -> None:
    change_weights(copy, lambda found: {name.replace("layers.1", "layers.7"): one for name, one in found.items()})
    assert "7 of its 14 modules are not in the model: layers.7." in refusal(copy, tiny_model).what


def test_adapter_with_a_layer_missing_is_refused(copy: Path, tiny_model: Path) -> None:
    change_weights(copy, lambda found: {name: one for name, one in found.items() if "layers.1" not in name})
    assert "7 of 14 modules that it adapts have no weights: layers.1." in refusal(copy, tiny_model).what


def test_adapter_of_chosen_layers_is_taken(copy: Path, tiny_model: Path) -> None:
    change_weights(copy, lambda found: {name: one for name, one in found.items() if "layers.1" not in name})
    change_config(copy, layers_to_transform=[0])
    check_adapter(Adapter(adapter_digest(copy), copy), base_digest(tiny_model), tiny_model)


def test_adapter_without_one_side_of_its_pairs_is_refused(copy: Path, tiny_model: Path) -> None:
    change_weights(copy, lambda found: {name: one for name, one in found.items() if "lora_B" not in name})
    assert "one half of their weights only" in refusal(copy, tiny_model).what


def test_weights_that_are_not_of_lora_are_refused(copy: Path, tiny_model: Path) -> None:
    save_file({"model.layers.0.self_attn.q_proj.weight": torch.ones(2, 2)}, copy / WEIGHTS)
    assert "none of its 1 tensors is a LoRA weight" in refusal(copy, tiny_model).what


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_weights_that_are_not_finite_are_refused(
    copy: Path, tiny_model: Path, value: float, dtype: torch.dtype
) -> None:
    def spoil(found: Weights) -> Weights:
        made = {name: one.to(dtype) for name, one in found.items()}
        next(reversed(made.values()))[0, 0] = value
        return made

    change_weights(copy, spoil)
    error = refusal(copy, tiny_model)
    assert "NaN or infinite weights" in error.what and "learning rate" in error.hint


def test_rank_that_differs_from_the_configuration_is_refused(copy: Path, tiny_model: Path) -> None:
    rank = json.loads((copy / CONFIG).read_text())["r"]
    change_config(copy, r=rank * 2)
    assert f"states rank {rank * 2}, the weights of" in refusal(copy, tiny_model).what


def test_shapes_of_another_model_are_refused(copy: Path, tiny_model: Path) -> None:
    change_weights(
        copy,
        lambda found: {name: one.repeat(1, 2) if "lora_A" in name else one for name, one in found.items()},
    )
    error = refusal(copy, tiny_model)
    assert "fit 64 x 128, the model has 64 x 64" in error.what or "the model has" in error.what


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        (WEIGHTS, b"", "header is cut off"),
        (WEIGHTS, b"\x10\0\0\0\0\0\0\0not json at all!", "not a safetensors file"),
        (CONFIG, b"{", "is not JSON"),
        (CONFIG, b"[]", "states no rank"),
        (CONFIG, b'{"r": "eight"}', "states no rank"),
    ],
)
def test_broken_file_is_named(copy: Path, tiny_model: Path, file: str, content: bytes, words: str) -> None:
    (copy / file).write_bytes(content)
    error = refusal(copy, tiny_model)
    assert words in error.what and file in error.where


def test_weights_that_are_cut_off_are_refused(copy: Path, tiny_model: Path) -> None:
    whole = (copy / WEIGHTS).read_bytes()
    (copy / WEIGHTS).write_bytes(whole[: len(whole) - 100])
    assert "cut off" in refusal(copy, tiny_model).what


def test_local_policy_does_not_answer_with_an_adapter_that_matches_nothing(copy: Path, tiny_model: Path) -> None:
    change_weights(copy, lambda found: {name.replace("layers", "stages"): one for name, one in found.items()})
    policy = LocalPolicy(f"local:{tiny_model}", tiny_model, threads=1)
    with pytest.raises(PolicyError, match="is in the model"):
        policy.probe(Adapter(adapter_digest(copy), copy))
