"""Define a candidate: the pair (harness, adapter) that is rolled out, gated and promoted."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter on disk, addressed by content.

    `path` holds `adapter_model.safetensors` and `adapter_config.json` (PEFT layout).
    """

    digest: str
    path: Path


@dataclass(frozen=True)
class Candidate:
    """Digests of a harness and an adapter that are rolled out together; adapter None is the bare policy."""

    harness: str
    adapter: str | None = None
