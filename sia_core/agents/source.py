"""What an agent may read of a run: training rollouts, harnesses, lineage, other runs. Gate and test never."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from sia_core.generation import Decision, Node
from sia_core.harness import Harness
from sia_core.rollout import Rollout


class Source(Protocol):
    """The record of one run, read-only, as far as agents may see it."""

    def nodes(self) -> Sequence[Node]:
        """The lineage, seed first."""
        ...

    def generations(self) -> Sequence[int]:
        """Generations whose training rollouts are there, in order."""
        ...

    def rollouts(self, generation: int) -> Sequence[Rollout]:
        """Training rollouts of a generation."""
        ...

    def harness(self, digest: str) -> Harness:
        """A harness of the lineage."""
        ...

    def history(self) -> Sequence[Mapping[str, Any]]:
        """Generations of other runs of this task, as they were when this run began."""
        ...

    def refuse(self, decision: Decision) -> str | None:
        """Why the decision could not be carried out, or None: the preconditions, free of cost."""
        ...
