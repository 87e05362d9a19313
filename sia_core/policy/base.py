"""Base models and adapters on disk: their content addresses. Imports nothing heavy."""

import json
import os
from pathlib import Path
from typing import Final

from sia_core.domain.candidate import Adapter
from sia_core.domain.errors import PolicyError
from sia_core.domain.hashing import digest_files, digest_json, digest_path
from sia_core.policy.adapter_files import CONFIG, WEIGHTS, check_files, read_config

ADAPTER_FILES: Final = (CONFIG, WEIGHTS)

_SUFFIXES = (".json", ".safetensors", ".txt", ".jinja", ".model")
_CACHE = ".sia-digest.json"


def base_digest(base: Path) -> str:
    """Digest over the files of a Hugging Face model directory.

    Raises:
        PolicyError: not a model directory.
    """
    if not (base / "config.json").is_file():
        raise PolicyError(
            "no config.json", where=str(base), hint="local:DIR needs a Hugging Face model directory with safetensors"
        )
    return digest_json(file_digests(base))


def file_digests(base: Path) -> dict[str, str]:
    """Digest of each file of the model.

    Hashing 256 MB takes a second, so digests are cached in the directory with each file's size and
    modification time.
    """
    cache = _read_cache(base / _CACHE)
    digests: dict[str, list[object]] = {}
    for file in sorted(base.iterdir()):
        if file.is_file() and file.suffix in _SUFFIXES and file.name != _CACHE:
            stat = file.stat()
            known = cache.get(file.name)
            fresh = known is not None and known[:2] == [stat.st_size, stat.st_mtime_ns]
            digest = known[2] if known is not None and fresh else digest_path(file)
            digests[file.name] = [stat.st_size, stat.st_mtime_ns, digest]
    if digests != cache:
        _write_cache(base / _CACHE, digests)
    return {name: str(entry[2]) for name, entry in digests.items()}


def adapter_digest(folder: Path) -> str:
    """Content address of an adapter directory in PEFT layout.

    Raises:
        PolicyError: not an adapter directory.
    """
    try:
        return digest_files({name: (folder / name).read_bytes() for name in ADAPTER_FILES})
    except OSError as error:
        raise PolicyError(f"not an adapter: {error.strerror}", where=str(error.filename)) from error


def check_adapter(adapter: Adapter, digest: str, base: Path) -> None:
    """Refuse an adapter with another digest than expected, trained on another base, or that does not fit the base.

    Args:
        adapter: the adapter.
        digest: digest of the base model.
        base: directory of the base model.

    Raises:
        PolicyError: naming the expected and the found value.
    """
    found = adapter_digest(adapter.path)
    if found != adapter.digest:
        raise PolicyError(f"adapter has digest {found}, expected {adapter.digest}", where=str(adapter.path))
    trained_on = str(read_config(adapter.path).get("base_model_name_or_path"))
    if trained_on.startswith("sha256:") and trained_on != f"sha256:{digest}":
        what = f"adapter was trained on base {trained_on}, this one is sha256:{digest}"
        raise PolicyError(what, where=str(adapter.path), hint="use the policy with which it was trained")
    check_files(adapter.path, base)


def share_cores() -> None:
    """Make waiting OpenMP threads sleep. Takes effect only before torch is first imported.

    By default, OpenMP threads spin, and hundreds of times in a forward pass wait for a descheduled thread: beside
    busy rollout workers, two threads are then ten times slower than one.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def _read_cache(file: Path) -> dict[str, list[object]]:
    try:
        cache: dict[str, list[object]] = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return cache


def _write_cache(file: Path, digests: dict[str, list[object]]) -> None:
    try:
        file.write_text(json.dumps(digests))
    except OSError:
        return  # A read-only model directory is hashed again each time.
