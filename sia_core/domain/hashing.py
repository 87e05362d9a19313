"""Compute content addresses: sha256 over canonical bytes.

Everything that enters a unit key or names an artifact is hashed here, so that two processes, machines or Python
versions agree on the digest.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def canonical_json(value: Any) -> bytes:
    """Encode JSON data with sorted keys and no spaces.

    Raises:
        ValueError: the value holds NaN or infinity, which JSON does not have.
        TypeError: the value is not JSON data.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def digest_bytes(data: bytes) -> str:
    """Return the sha256 of bytes, as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def digest_json(value: Any) -> str:
    """Return the sha256 of the canonical JSON of `value`."""
    return digest_bytes(canonical_json(value))


def digest_files(files: Mapping[str, bytes]) -> str:
    """Return the sha256 of a set of named files, independent of their order."""
    return digest_json({name: digest_bytes(data) for name, data in files.items()})


def digest_path(path: Path) -> str:
    """Return the sha256 of one file, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def derive_seed(*parts: object) -> int:
    """Derive a 63-bit seed that depends on every part and on nothing else."""
    return int(digest_json([str(part) for part in parts])[:16], 16) >> 1
