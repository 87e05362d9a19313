"""Load a base model and its tokenizer from a directory: safetensors only, and no code that came with the model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

from sia_core.domain.errors import PolicyError

Loaded = TypeVar("Loaded")

TRUSTS_NOTHING: Final[dict[str, Any]] = {"trust_remote_code": False, "local_files_only": True}
"""Options of every loader of Transformers. Without the first one, some ask on the terminal whether to run code."""


def load_base(base: Path) -> Any:
    """Load the base model in fp32, on a GPU too, so that a policy's digest means one distribution.

    Raises:
        PolicyError: the files are no model that Transformers knows.
    """

    def load() -> Any:
        return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, use_safetensors=True, **TRUSTS_NOTHING)

    return _named(base, load)


def load_tokenizer(base: Path) -> Any:
    """Load the tokenizer.

    Raises:
        PolicyError: the files are no tokenizer that Transformers knows.
    """
    return _named(base, lambda: AutoTokenizer.from_pretrained(base, **TRUSTS_NOTHING))


def _named(base: Path, load: Callable[[], Loaded]) -> Loaded:
    try:
        return load()
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        if "trust_remote_code" in str(error):
            what = "the model needs code of its own, which is never run"
            hint = "use a model that Transformers has the code of"
        else:
            what, hint = f"cannot be loaded: {lines[0][:300]}", "check that the directory is complete"
        raise PolicyError(what, where=str(base), hint=hint) from error
