"""Describe the environment of a run: Python, processor, memory, GPUs and versions of libraries that decide results.

Each run records the description at its start, without names of machine, user or place, so that you can repeat it.
"""

import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from sia_core.host.machine.processors import cpus

PACKAGES = (
    *("sia", "prefect", "ray", "mlflow", "numpy", "scipy", "torch", "transformers", "peft", "trl", "vllm"),
    *("anthropic", "openai", "scanpy", "triton"),
)
_CPUINFO, _MEMINFO, _GPUS = Path("/proc/cpuinfo"), Path("/proc/meminfo"), Path("/proc/driver/nvidia/gpus")


def describe() -> dict[str, Any]:
    """Return JSON data, in which unavailable figures are None, without loading the listed libraries."""
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": next(_values(_CPUINFO, "model name"), None),
        "cpus": cpus(),
        "memory_gb": _memory_gb(),
        "gpus": sorted(model for file in _GPUS.glob("*/information") for model in _values(file, "Model")),
        "packages": {name: found for name in PACKAGES if (found := installed(name)) is not None},
    }


def installed(package: str) -> str | None:
    """Version of a package, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _memory_gb() -> float | None:
    total = next(_values(_MEMINFO, "MemTotal"), None)
    return None if total is None else round(int(total.split()[0]) / 2**20, 1)


def _values(file: Path, name: str) -> Iterator[str]:
    """Yield values of lines `NAME : VALUE`; nothing if the file does not exist."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == name:
            yield value.strip()
