"""Read the files of a LoRA adapter and compare them with the base model. Loads numpy only to look for NaN.

PEFT, and servers that load adapters, skip tensors that match no module of the model: the bare model then answers under
the adapter's name. So an adapter is compared with its base before it is loaded: names, ranks, shapes and numbers.
"""

import json
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sia_core.domain.errors import PolicyError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_HEADER_LIMIT: Final = 100_000_000
_PART = re.compile(r"^(?P<module>.+)\.lora_(?P<side>A|B)(?:\.[\w-]+)?\.weight$")
_LAYER = re.compile(r"(?:^|\.)((?:layers|h|blocks|block)\.\d+\..+)$")
"""Part of a module's name that is the same under every wrapper of the model."""
_NAMED: Final = 3
"""Number of modules that an error names."""
_HINT: Final = "train the adapter again on this model, or name the policy that it was trained with"


@dataclass(frozen=True)
class Tensor:
    """An entry of a safetensors header."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    """First byte, from the beginning of the file."""
    end: int


def check_files(adapter: Path, base: Path | None = None) -> None:
    """Check the files of an adapter in PEFT layout.

    Args:
        adapter: directory with configuration and weights.
        base: directory of the base model, whose modules the adapter must match; not compared if None.

    Raises:
        PolicyError: files that cannot be read, a wrong rank, NaN or infinite weights, modules that the base lacks, or
            modules of the configuration without weights.
    """
    config = read_config(adapter)
    header = read_header(adapter / WEIGHTS)
    pairs = _pairs(adapter, header)
    for module, (down, up) in pairs.items():
        _check_rank(adapter, config, module, down, up)
    _check_finite(adapter / WEIGHTS, header)
    if base is not None:
        _compare(adapter, config, pairs, _modules(base))


def read_header(file: Path) -> dict[str, Tensor]:
    """Read the names, shapes and places of the tensors of a safetensors file.

    Raises:
        PolicyError: not a safetensors file, or one that is cut off.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as data:
            length = int.from_bytes(data.read(8), "little")
            if not 0 < length <= min(_HEADER_LIMIT, size - 8):
                raise ValueError("its header is cut off")
            entries: Any = json.loads(data.read(length))
        found = {name: _tensor(entry, 8 + length) for name, entry in entries.items() if name != "__metadata__"}
        if any(not 0 <= one.start <= one.end <= size for one in found.values()):
            raise ValueError("it is cut off")
    except OSError as error:
        raise PolicyError(f"cannot be read: {error.strerror}", where=str(file)) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise PolicyError(f"is not a safetensors file: {error}", where=str(file), hint="copy it again") from error
    return found


@contextmanager
def refuse_missing_keys(adapter: Path) -> Iterator[None]:
    """Turn PEFT's warning about weights that it did not find into an error. For one thread.

    Raises:
        PolicyError: PEFT found no weights for some of the modules that it adapts.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Found missing adapter keys")
        try:
            yield
        except UserWarning as error:
            what = f"has no weights for some modules of the model: {str(error)[:200]}"
            raise PolicyError(what, where=str(adapter), hint=_HINT) from None


def _tensor(entry: Any, start: int) -> Tensor:
    first, last = entry["data_offsets"]
    return Tensor(str(entry["dtype"]), tuple(int(size) for size in entry["shape"]), start + first, start + last)


def read_config(adapter: Path) -> Mapping[str, Any]:
    """Read the configuration of an adapter.

    Raises:
        PolicyError: no configuration of a LoRA adapter.
    """
    file = adapter / CONFIG
    try:
        config: Any = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise PolicyError(f"not an adapter: {error.strerror}", where=str(file)) from error
    except (ValueError, RecursionError) as error:
        raise PolicyError(f"is not JSON: {error}", where=str(file), hint="copy the adapter again") from error
    if not isinstance(config, dict) or not isinstance(config.get("r"), int) or config["r"] < 1:
        raise PolicyError("states no rank `r` of a LoRA adapter", where=str(file), hint="name a LoRA adapter of PEFT")
    return config


def _pairs(adapter: Path, header: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Group the weights by module: (down, up) of shapes (r, in) and (out, r)."""
    sides: dict[str, dict[str, Tensor]] = {}
    for name, tensor in header.items():
        part = _PART.match(name)
        if part is not None:
            sides.setdefault(part["module"], {})[part["side"]] = tensor
    if not sides:
        what = f"none of its {len(header)} tensors is a LoRA weight"
        raise PolicyError(what, where=str(adapter / WEIGHTS), hint="name a LoRA adapter of PEFT")
    halves = [module for module, found in sides.items() if len(found) < 2]
    if halves:
        what = f"{len(halves)} of {len(sides)} modules have one half of their weights only: {_some(halves)}"
        raise PolicyError(what, where=str(adapter / WEIGHTS), hint=_HINT)
    return {module: (found["A"], found["B"]) for module, found in sides.items()}


def _check_rank(adapter: Path, config: Mapping[str, Any], module: str, down: Tensor, up: Tensor) -> None:
    patterns: Mapping[str, int] = config.get("rank_pattern") or {}
    own = next((rank for name, rank in patterns.items() if re.search(rf"(^|\.){name}$", module)), config["r"])
    ranks = {down.shape[0] if down.shape else 0, up.shape[-1] if up.shape else 0}
    if ranks != {own}:
        found = ", ".join(map(str, sorted(ranks)))
        what = f"the configuration states rank {own}, the weights of {module} have rank {found}"
        raise PolicyError(what, where=str(adapter), hint=_HINT)


def _check_finite(file: Path, header: Mapping[str, Tensor]) -> None:
    import numpy as np

    data = np.memmap(file, mode="r")
    for name, tensor in header.items():
        raw = data[tensor.start : tensor.end]
        if tensor.dtype == "BF16":
            # The exponent's bits are all set in infinities and NaN only.
            finite = bool(((raw.view("<u2") & 0x7F80) != 0x7F80).all())
        elif tensor.dtype in ("F16", "F32", "F64"):
            finite = bool(np.isfinite(raw.view(f"<f{int(tensor.dtype[1:]) // 8}")).all())
        else:
            continue
        if not finite:
            what = f"{name} holds NaN or infinite weights"
            raise PolicyError(what, where=str(file), hint="train again with a lower learning rate")


def _modules(base: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the base model's weights by module, under names without wrappers."""
    found: dict[str, tuple[int, ...]] = {}
    for file in sorted(base.glob("*.safetensors")):
        for name, tensor in read_header(file).items():
            if name.endswith(".weight"):
                found[_short(name.removesuffix(".weight"))] = tensor.shape
    return found


def _short(module: str) -> str:
    layer = _LAYER.search(module)
    return layer[1] if layer else module.rpartition(".")[2]


def _compare(
    adapter: Path,
    config: Mapping[str, Any],
    pairs: Mapping[str, tuple[Tensor, Tensor]],
    modules: Mapping[str, tuple[int, ...]],
) -> None:
    """Compare an adapter's modules with the base model's.

    Models whose files name other modules than the program does cannot be compared: then no target is among the names.
    """
    wanted = [module for module in modules if _is_target(module, config.get("target_modules"))]
    if not wanted:
        return
    named = {_short(module): pair for module, pair in pairs.items()}
    unknown = sorted(module for module in named if module not in modules)
    if len(unknown) == len(named):
        what = f"none of its {len(named)} modules is in the model, which has no {_some(unknown)}"
        raise PolicyError(what, where=str(adapter), hint=_HINT)
    if unknown:
        what = f"{len(unknown)} of its {len(named)} modules are not in the model: {_some(unknown)}"
        raise PolicyError(what, where=str(adapter), hint=_HINT)
    chosen = config.get("layers_to_transform") is not None or config.get("exclude_modules")
    missing = sorted(set(wanted) - set(named))
    if missing and not chosen:
        what = f"{len(missing)} of {len(wanted)} modules that it adapts have no weights: {_some(missing)}"
        raise PolicyError(what, where=str(adapter), hint="copy the whole adapter again")
    for module, (down, up) in named.items():
        shape = (up.shape[0], down.shape[-1])
        if sorted(modules[module]) != sorted(shape):
            what = f"its weights for {module} fit {_by(shape)}, the model has {_by(modules[module])}"
            raise PolicyError(what, where=str(adapter), hint=_HINT)


def _is_target(module: str, targets: Any) -> bool:
    """Return True if PEFT adapts a module: by the end of its name, or by a pattern. `all-linear` is not judged."""
    if isinstance(targets, str):
        return False
    names = [_short(name) if "." in name else name for name in targets or ()]
    return any(module == name or module.endswith(f".{name}") for name in names)


def _some(names: list[str]) -> str:
    rest = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
