"""A source in memory, for agents under test."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sia_core.agents.trial import Left, Trial
from sia_core.domain.harness import Harness
from sia_core.domain.lineage import Decision, Draft, Node
from sia_core.domain.rollout import Rollout


@dataclass
class MemorySource:
    """Implement `Source` with the values that a test puts in."""

    lineage: Sequence[Node] = ()
    batches: Mapping[int, Sequence[Rollout]] = field(default_factory=dict)
    harnesses: Mapping[str, Harness] = field(default_factory=dict)
    rows: Sequence[Mapping[str, Any]] = ()
    refusals: Callable[[Decision], Sequence[str]] = lambda _: ()
    validations: Callable[[Decision], Sequence[str]] = lambda _: ()
    drafted: Sequence[Draft] = ()
    tried: Mapping[str, Sequence[Rollout]] = field(default_factory=dict)
    """Digest of a rewrite -> its rollouts."""
    publics: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    readable: Mapping[str, bytes] = field(default_factory=dict)
    updates: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    allowance: Left = field(default_factory=lambda: Left(64, 1200.0))
    plays: Callable[[Harness, int, Sequence[str], int], Trial] | None = None
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

    def objections(self, decision: Decision) -> Sequence[str]:
        return self.refusals(decision)

    def validate(self, decision: Decision) -> Sequence[str]:
        return self.validations(decision)

    def drafts(self) -> Sequence[Draft]:
        return self.drafted

    def draft_rollouts(self, digest: str) -> Sequence[Rollout]:
        return self.tried.get(digest, ())

    def update(self, node: int) -> Mapping[str, Any] | None:
        return self.updates.get(node)

    def problem(self, problem: str) -> Mapping[str, Any] | None:
        return self.publics.get(problem)

    def problem_ids(self) -> Sequence[str]:
        return sorted(self.publics)

    def texts(self) -> Mapping[str, int]:
        return {name: len(data) for name, data in self.readable.items()}

    def text(self, name: str) -> bytes:
        return self.readable[name]

    def play(self, draft: Harness, parent: int, problems: Sequence[str], rollouts: int) -> Trial:
        assert self.plays is not None
        return self.plays(draft, parent, problems, rollouts)

    def left(self) -> Left:
        return self.allowance
