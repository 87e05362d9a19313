"""Settings of a weight update that an agent may propose, and the settings that follow from them. Loads no torch.

One table, `SETTINGS`, validates proposals and describes them. `settle` makes the
settings of an `UpdateSpec` of three layers, the later before the earlier: the algorithm's defaults, the task's
`[update]`, the proposal. What is not in the table (temperature, seed, parent, limits of drift) is no agent's to choose.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sia_core.domain.backend import TRL_ALGORITHMS
from sia_core.domain.errors import PolicyError
from sia_core.domain.rollout import Rollout
from sia_core.weights.algorithms import ALGORITHMS
from sia_core.weights.preconditions import suggest

_PER_ALGORITHM = ("steps", "learning_rate", "kl_base", "backend")
"""Settings of a task that were chosen for its algorithm, and give way with it."""


class ProposalError(PolicyError):
    """Invalid proposed setting; the message names the setting, what is allowed, and what to change."""

    @property
    def field(self) -> str:
        """Name of the setting."""
        return self.where.removeprefix("update.")


@dataclass(frozen=True)
class Setting:
    """One field of a proposal."""

    kind: Literal["integer", "number", "string"]
    about: str
    low: float = 0
    high: float = 0
    above: bool = False
    """True if `low` itself is excluded."""
    names: tuple[str, ...] = ()
    """Values that a setting of kind `string` may have."""
    algorithms: tuple[str, ...] = ()
    """Algorithms that read this setting; empty for all."""
    losses: tuple[str, ...] = ()
    """Losses that read this setting; empty for all."""

    @property
    def allowed(self) -> str:
        """Description of the allowed values."""
        if self.names:
            return f"one of {', '.join(self.names)}"
        edge = "above" if self.above else "from"
        return f"{'an' if self.kind == 'integer' else 'a'} {self.kind} {edge} {self.low:g} to {self.high:g}"

    def takes(self, value: Any) -> bool:
        """Return True if a value is allowed."""
        if self.kind == "string":
            return value in self.names
        if isinstance(value, bool) or not isinstance(value, int if self.kind == "integer" else int | float):
            return False
        return self.low <= value <= self.high and not (self.above and value == self.low)


SETTINGS: Mapping[str, Setting] = {
    "algorithm": Setting(
        "string",
        "; ".join(f"{name}: {one.fits}" for name, one in ALGORITHMS.items()) + ". Left out: the task's, or what fits.",
        names=tuple(ALGORITHMS),
    ),
    "rounds": Setting("integer", "On-policy rounds; each after the first takes a block of rollouts.", 1, 32),
    "steps": Setting("integer", "Optimiser steps on each round's rollouts.", 1, 32),
    "learning_rate": Setting("number", "Of Adam; 1e-5 to 2e-4 is usual for LoRA.", 0, 0.1, above=True),
    "rank": Setting("integer", "LoRA rank of a new adapter; alpha equals it.", 1, 256),
    "kl_base": Setting("number", "Weight of the KL to the bare policy; holds on to what it can do.", 0, 10),
    "loss": Setting(
        "string",
        "In place of the algorithm's own.",
        names=("clip", "importance", "cispo"),
        algorithms=tuple(name for name, one in ALGORITHMS.items() if one.loss in ("clip", "importance")),
    ),
    "clip_low": Setting("number", "How far a ratio may fall below 1.", 0, 1, above=True, losses=("clip", "cispo")),
    "clip_high": Setting("number", "How far a ratio may rise above 1.", 0, 10, above=True, losses=("clip", "cispo")),
    "dual_clip": Setting(
        "number", "Bound where the advantage is negative; 3 is usual.", 1, 100, above=True, losses=("clip",)
    ),
    "cap": Setting("number", "Greatest importance weight.", 1, 100, losses=("importance",)),
    "gamma": Setting("number", "Discount from one token to the next.", 0, 1, above=True, algorithms=("ppo",)),
    "lam": Setting("number", "Lambda of generalised advantage estimation.", 0, 1, algorithms=("ppo",)),
    "beta": Setting(
        "number", "How strongly a preference moves the policy.", 0, 10, above=True, algorithms=("dpo", "kto")
    ),
    "margin": Setting("number", "Least difference of scores within a pair.", 0, 1e9, algorithms=("dpo",)),
    "threshold": Setting("number", "Least score that is good.", -1e9, 1e9, algorithms=("best_of_n", "kto")),
    "backend": Setting(
        "string",
        "Trainer of the steps: own, this project's, for every algorithm; trl, TRL's, for "
        f"{', '.join(TRL_ALGORITHMS)} on free text at temperature 1. Left out: the task's, or own.",
        names=("own", "trl"),
    ),
}
"""Settings by the name of their field in `UpdateSpec`."""


def settle(
    rollouts: Sequence[Rollout], task: Mapping[str, Any], proposed: Mapping[str, Any], *, fresh: bool = True
) -> dict[str, Any]:
    """Settings of an `UpdateSpec` by field, always including the algorithm.

    The algorithm is the proposed one, else the task's, else the one that fits the rollouts. Where another than the
    task's is proposed, the task's steps, learning rate, KL and backend were not meant for it, and its own defaults
    stand.

    Args:
        rollouts: rollouts of the update's first round.
        task: the task's settings, already valid.
        proposed: an agent's settings.
        fresh: True if a new adapter is trained; an adapter trained further keeps its rank.

    Raises:
        ProposalError: unknown fields, values out of range, fields that the algorithm does not read (all in one
            error), or no algorithm is named and none fits.
    """
    _raise_all([fault for name, value in proposed.items() if (fault := _wrong_value(name, value))])
    algorithm = proposed.get("algorithm") or task.get("algorithm") or _fitting(rollouts)
    loss = proposed.get("loss") or ALGORITHMS[algorithm].loss
    own = task.get("algorithm", algorithm) == algorithm
    kept = {name: value for name, value in task.items() if own or name not in _PER_ALGORITHM}
    faults = [fault for name in proposed if (fault := _not_read(name, algorithm, loss, fresh=fresh))]
    _raise_all([*faults, *_untrained({**kept, **proposed}.get("backend"), algorithm)])
    return {**ALGORITHMS[algorithm].defaults, **kept, **proposed, "algorithm": algorithm}


def _raise_all(faults: Sequence[ProposalError]) -> None:
    if len(faults) == 1:
        raise faults[0]
    if faults:
        raise ProposalError(f"{len(faults)} faults: " + "; ".join(map(str, faults)), where="update")


def _wrong_value(name: str, value: Any) -> ProposalError | None:
    if name not in SETTINGS:
        hint = f"leave it out; there are {', '.join(SETTINGS)}"
        return ProposalError("there is no such setting", where=f"update.{name}", hint=hint)
    if not SETTINGS[name].takes(value):
        hint = f"give {SETTINGS[name].allowed}"
        return ProposalError(f"{value!r} is not allowed", where=f"update.{name}", hint=hint)
    return None


def _not_read(name: str, algorithm: str, loss: str, *, fresh: bool) -> ProposalError | None:
    where, one = f"update.{name}", SETTINGS[name]
    for kind, chosen, readers in (("algorithm", algorithm, one.algorithms), ("loss", loss, one.losses)):
        if readers and chosen not in readers:
            hint = f"leave it out, or propose as {kind} one of {', '.join(readers)}"
            return ProposalError(f"{kind} {chosen} does not read it", where=where, hint=hint)
    if name == "rank" and not fresh:
        hint = "leave it out, or branch from a node without an adapter"
        return ProposalError("an adapter that is trained further keeps its rank", where=where, hint=hint)
    return None


def _untrained(backend: str | None, algorithm: str) -> list[ProposalError]:
    if backend != "trl" or algorithm in TRL_ALGORITHMS:
        return []
    hint = f"leave it out, or propose as algorithm one of {', '.join(TRL_ALGORITHMS)}"
    return [ProposalError(f"backend trl does not train algorithm {algorithm}", where="update.backend", hint=hint)]


def _fitting(rollouts: Sequence[Rollout]) -> str:
    algorithm, reason = suggest(rollouts)
    if algorithm is None:
        raise ProposalError(
            f"none fits: {reason}", where="update.algorithm", hint="pull another lever, or gather other rollouts first"
        )
    return algorithm
