"""A source in memory, for agents under test."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sia_core.generation import Decision, Node
from sia_core.harness import Harness
from sia_core.rollout import Rollout


@dataclass
class MemorySource:
    """As `Source`, from what a test puts in."""

    lineage: Sequence[Node] = ()
    batches: Mapping[int, Sequence[Rollout]] = field(default_factory=dict)
    harnesses: Mapping[str, Harness] = field(default_factory=dict)
    rows: Sequence[Mapping[str, Any]] = ()
    refusals: Callable[[Decision], str | None] = lambda _: None
    opened: list[int] = field(default_factory=list)
    """Generations in the order in which their rollouts were asked for."""

    def nodes(self) -> Sequence[Node]:
        return self.lineage

    def generations(self) -> Sequence[int]:
        return sorted(self.batches)

    def rollouts(self, generation: int) -> Sequence[Rollout]:
        self.opened.append(generation)
        return self.batches[generation]

    def harness(self, digest: str) -> Harness:
        return self.harnesses[digest]

    def history(self) -> Sequence[Mapping[str, Any]]:
        return self.rows

    def refuse(self, decision: Decision) -> str | None:
        return self.refusals(decision)
