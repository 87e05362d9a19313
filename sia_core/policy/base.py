"""Base models and adapters on disk: their content addresses. Imports nothing heavy."""

import json
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Final

from sia_core.domain.candidate import Adapter
from sia_core.domain.errors import PolicyError
from sia_core.domain.hashing import digest_files, digest_json, digest_path
from sia_core.host.home import home
from sia_core.policy.adapter_files import CONFIG, WEIGHTS, check_files, read_config

ADAPTER_FILES: Final = (CONFIG, WEIGHTS)

_SUFFIXES = (".json", ".safetensors", ".txt", ".jinja", ".model", ".tiktoken")
_TEMPLATES = "additional_chat_templates"
"""Folder of further chat templates, which a tokenizer reads."""
_INDEX = "model.safetensors.index.json"
_OLD_CACHE = ".sia-digest.json"
"""Cache of an earlier version, in the model's directory. It is no part of the model, and never read."""


def base_digest(base: Path) -> str:
    """Digest over the files of a Hugging Face model directory.

    Raises:
        PolicyError: not a model directory, or loading it would read weights that the digest does not cover.
    """
    hint = "local:DIR needs a Hugging Face model directory with safetensors"
    if not (base / "config.json").is_file():
        raise PolicyError("no config.json", where=str(base), hint=hint)
    if not any(base.glob("*.safetensors")):
        raise PolicyError("no weights in safetensors files", where=str(base), hint=hint)
    if (base / CONFIG).exists():
        what = f"{CONFIG} makes this an adapter, whose base model lies elsewhere"
        raise PolicyError(what, where=str(base), hint="name the directory of a whole model")
    if elsewhere := [name for name in _indexed(base) if PurePosixPath(name).name != name]:
        what = f"{_INDEX} names weights outside the directory: {elsewhere[0]!r}"
        raise PolicyError(what, where=str(base), hint="put all weights beside config.json")
    return digest_json(file_digests(base))


def file_digests(base: Path) -> dict[str, str]:
    """Digest of each file of the model.

    Hashing 256 MB takes a second, so digests are cached under SIA_HOME with each file's inode, size and times. A cache
    beside the model could come with the model.
    """
    place = home() / "digests" / f"{digest_json(str(base.absolute()))[:32]}.json"
    cache = _read_cache(place)
    digests: dict[str, list[object]] = {}
    for file in _files(base):
        stat, name = file.stat(), file.relative_to(base).as_posix()
        state = [stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
        known = cache.get(name)
        digest = known[-1] if known is not None and known[:-1] == state else digest_path(file)
        digests[name] = [*state, digest]
    if digests != cache:
        _write_cache(place, digests)
    return {name: str(entry[-1]) for name, entry in digests.items()}


def _files(base: Path) -> Iterator[Path]:
    """Yield the files that loading reads: weights, settings, and the tokenizer's."""
    for file in sorted(base.iterdir()):
        if file.is_file() and file.suffix in _SUFFIXES and file.name != _OLD_CACHE:
            yield file
    yield from sorted((base / _TEMPLATES).glob("*.jinja"))


def _indexed(base: Path) -> list[str]:
    """List the files that the index of a model in parts names."""
    try:
        index: Any = json.loads((base / _INDEX).read_bytes())
        return [str(name) for name in index["weight_map"].values()]
    except FileNotFoundError:
        return []
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
        raise PolicyError(f"{_INDEX} cannot be read: {error}", where=str(base), hint="copy the model again") from None


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
    part = file.with_suffix(f".{os.getpid()}")
    try:
        file.parent.mkdir(mode=0o700, exist_ok=True)
        part.write_text(json.dumps(digests))
        part.replace(file)
    except OSError:
        return  # The model is hashed again each time.
