"""The two backends of a weight update, by the names that settings, manifests and reports use."""

from collections.abc import Mapping
from typing import Any, Literal

Backend = Literal["own", "trl"]
"""`own`: the project's step, for every algorithm. `trl`: TRL's trainers, for TRL_ALGORITHMS alone."""
TRL_ALGORITHMS = ("best_of_n", "dpo", "kto")
"""Algorithms that TRL trains from recorded token ids: by SFTTrainer, DPOTrainer and KTOTrainer."""

_ABOUT: Mapping[str, str] = {"own": "own (the project's step)", "trl": "trl (TRL's trainer)"}


def describe_backend(spec: Mapping[str, Any]) -> str:
    """Name what trained a recorded update. A spec from before the field `backend` names nothing."""
    named = spec.get("backend")
    if named is None and spec.get("algorithm") in TRL_ALGORITHMS:
        return "not recorded: TRL where it could train the batch exactly, else the project's step"
    return _ABOUT.get(named or "own", str(named))
