"""Manifest of a checkpoint, and the check that the checkpoint belongs to its reader. Loads no torch."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sia_core.domain.errors import PolicyError
from sia_core.domain.hashing import digest_json
from sia_core.policy.base import file_digests

_TOKENIZER = ("tokenizer", "special_tokens_map", "added_tokens", "vocab", "merges")
_TEMPLATE = "chat_template.jinja"


def identify(base: Path) -> dict[str, str]:
    """Digests of a base model directory: of all files, of the tokenizer, of the chat template.

    Raises:
        PolicyError: not a base model directory.
    """
    files = file_digests(base)
    tokenizer = {name: digest for name, digest in files.items() if name.startswith(_TOKENIZER)}
    try:
        config = json.loads((base / "tokenizer_config.json").read_text())
    except OSError:
        config = {}
    template = files.get(_TEMPLATE) or digest_json(config.get("chat_template"))
    return {"base": digest_json(files), "tokenizer": digest_json(tokenizer), "template": template}


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """A checkpoint's manifest, None when there is no checkpoint."""
    try:
        manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    except FileNotFoundError:
        return None
    return manifest


def check_manifest(manifest: Mapping[str, Any], expected: Mapping[str, Any], folder: Path) -> None:
    """Refuse a checkpoint of another update.

    Raises:
        PolicyError: an entry is not as expected.
    """
    for name, value in expected.items():
        if manifest.get(name) != value:
            raise PolicyError(
                f"checkpoint has {name} {manifest.get(name)!r}, not {value!r}",
                where=str(folder),
                hint="a checkpoint belongs to one update, base model and batch: give each update its own folder",
            )
