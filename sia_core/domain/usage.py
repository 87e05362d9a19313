"""Amounts that work has used, and their addition.

`Usage` counts the work of a run, and a budget limits it. `Cost` (`domain.lineage`) counts the rollouts of a node.
`ModelUsage` counts the requests of a conversation with a language model. The ledger makes a `Usage` of each rollout
and of each `ModelUsage`. An export of decisions stores the sum of its `ModelUsage` as `agents.recording.Used`.
"""

from dataclasses import dataclass, fields
from typing import Self

from sia_core.domain.json_data import Number


@dataclass(frozen=True)
class Amounts:
    """Amounts that add up field by field. The sum with an unknown amount (None) is unknown."""

    def __add__(self, other: Self) -> Self:
        pairs = ((getattr(self, one.name), getattr(other, one.name)) for one in fields(self))
        return type(self)(*(None if None in pair else sum(pair) for pair in pairs))


@dataclass(frozen=True)
class Usage(Amounts):
    """Amounts that a run has used: each rollout and each conversation counts once, whether successful or not."""

    rollouts: Number = 0
    tokens: Number = 0
    dollars: Number = 0.0
    seconds: Number = 0.0
    """Seconds, added up over everything that runs side by side."""
    gpu_seconds: Number = 0.0
    """Seconds times the GPUs that were set aside for the work."""

    def __mul__(self, factor: float) -> "Usage":
        return Usage(*(factor * getattr(self, one.name) for one in fields(self)))

    def at_least(self, other: "Usage") -> "Usage":
        """The greater of the two, amount by amount."""
        return Usage(*(max(getattr(self, one.name), getattr(other, one.name)) for one in fields(self)))


@dataclass(frozen=True)
class ModelUsage(Amounts):
    """Requests to a language model, their tokens and their price."""

    requests: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    dollars: float | None = 0.0
    """None where the model has no price."""

    @property
    def tokens(self) -> int:
        """Prompt and output."""
        return self.prompt_tokens + self.output_tokens
