"""A checkpoint: a directory with the adapter, the optimiser, the value head and a manifest, complete or absent.

The state of torch's random numbers is not saved: training draws none after a new adapter's first weights, which
come from the spec's seed.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from sia_core.domain.candidate import Adapter
from sia_core.domain.errors import PolicyError
from sia_core.domain.hashing import canonical_json
from sia_core.policy.base import ADAPTER_FILES, adapter_digest

Tensors = Mapping[str, torch.Tensor]
_STATE = ("step", "exp_avg", "exp_avg_sq")


def write_checkpoint(
    folder: Path, write_adapter: Callable[[Path], None], tensors: Mapping[str, Tensors], manifest: Mapping[str, Any]
) -> Adapter:
    """Write a directory that appears complete; the manifest gets the adapter's digest.

    Args:
        folder: replaced if it exists.
        write_adapter: writes PEFT's files into a new directory.
        tensors: other tensors to save, by file name without suffix.
        manifest: JSON data.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".saving-"))
    write_adapter(staging / "adapter")
    for name, content in tensors.items():
        save_file(dict(content), staging / f"{name}.safetensors")
    digest = adapter_digest(staging / "adapter")
    (staging / "manifest.json").write_text(json.dumps({**manifest, "adapter": digest}, indent=1))
    for file in staging.rglob("*"):
        if file.is_file():
            with file.open("rb") as written:
                os.fsync(written.fileno())
    shutil.rmtree(folder, ignore_errors=True)
    staging.rename(folder)
    return Adapter(digest, folder / "adapter")


def write_adapter(model: Any, base: str, folder: Path) -> None:
    """Write PEFT's files with the same bytes in every process and on every machine."""
    model.save_pretrained(folder, save_embedding_layers=False, selected_adapters=["default"])
    for file in folder.iterdir():
        if file.name not in ADAPTER_FILES:
            file.unlink()
    config = json.loads((folder / ADAPTER_FILES[0]).read_text())
    # PEFT writes the names from a set, whose order differs between processes, and the base model's path.
    config["target_modules"] = sorted(config["target_modules"])
    config["base_model_name_or_path"] = f"sha256:{base}"
    (folder / ADAPTER_FILES[0]).write_bytes(canonical_json(config))


def read_adapter(folder: Path, parameters: Mapping[str, torch.nn.Parameter]) -> None:
    """Copy a checkpoint's adapter weights into a model's parameters.

    Raises:
        PolicyError: a weight is missing.
    """
    weights = load_file(folder / "adapter" / ADAPTER_FILES[1])
    state = {name.replace(".weight", ".default.weight"): tensor for name, tensor in weights.items()}
    missing = set(parameters) - set(state)
    if missing:
        raise PolicyError(f"checkpoint lacks {min(missing)}", where=str(folder))
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(state[name])


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, torch.nn.Parameter]
) -> dict[str, torch.Tensor]:
    """Adam's state by parameter name; empty before the first step."""
    return {
        f"{name}/{key}": value.detach().clone()
        for name, parameter in parameters.items()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def read_optimizer(
    folder: Path, optimizer: torch.optim.Optimizer, parameters: Mapping[str, torch.nn.Parameter]
) -> None:
    """Restore the state that `optimizer_tensors` returned."""
    optimizer.state.clear()
    saved = load_file(folder / "optimizer.safetensors")
    for name, parameter in parameters.items():
        entries = {key: saved[f"{name}/{key}"] for key in _STATE if f"{name}/{key}" in saved}
        if entries:
            optimizer.state[parameter] = {
                key: value if key == "step" else value.to(parameter.device) for key, value in entries.items()
            }
