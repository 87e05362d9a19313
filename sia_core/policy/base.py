"""Base models on disk: which directory a spec means, and its content address. Imports nothing heavy."""

import json
import os
from pathlib import Path

from sia_core.errors import PolicyError
from sia_core.hashing import digest_json, digest_path

_SUFFIXES = (".json", ".safetensors", ".txt", ".jinja", ".model")
_CACHE = ".sia-digest.json"


def base_digest(base: Path) -> str:
    """Digest over the files of a Hugging Face model directory.

    Hashing 256 MB takes a second, so each file's digest is kept beside it with its size and
    modification time.

    Raises:
        PolicyError: not such a directory.
    """
    if not (base / "config.json").is_file():
        raise PolicyError(
            "no config.json", where=str(base), hint="local:DIR wants a Hugging Face model directory with safetensors"
        )
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
    return digest_json({name: entry[2] for name, entry in digests.items()})


def share_cores() -> None:
    """Make waiting OpenMP threads sleep. Takes effect only before torch is first imported.

    By default they spin, and hundreds of times in a forward pass wait for a thread that has been
    descheduled: beside busy rollout workers two threads are then ten times slower than one.
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
