"""What an agent may read, out of a session: the training split alone."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from flows.levers import refusal
from flows.session import Session
from sia_core.agents.memory import asks, blocked
from sia_core.generation import Decision, Node
from sia_core.harness import Harness
from sia_core.record.generation import GenerationRecord
from sia_core.record.history import read_history
from sia_core.rollout import Rollout


class SessionSource:
    """The `Source` of one generation of a run. Rollouts of its gate and of the sealed test are not reachable."""

    def __init__(self, session: Session, generation: int, siblings: Sequence[Decision] = ()) -> None:
        self._session = session
        self._siblings = tuple(siblings)
        self._generation = generation

    def nodes(self) -> Sequence[Node]:
        """As `Source.nodes`."""
        return self._nodes

    def generations(self) -> Sequence[int]:
        """As `Source.generations`."""
        return sorted(self._records)

    def rollouts(self, generation: int) -> Sequence[Rollout]:
        """As `Source.rollouts`."""
        return self._records[generation].rollouts("train")

    def harness(self, digest: str) -> Harness:
        """As `Source.harness`."""
        return self._session.run.harness(digest)

    def history(self) -> Sequence[Mapping[str, Any]]:
        """As `Source.history`."""
        return self._history

    def refuse(self, decision: Decision) -> str | None:
        """As `Source.refuse`."""
        if any(_whole(decision) == _whole(sibling) for sibling in self._siblings):
            return "this is what a sibling of this generation does already"
        nodes = self._nodes
        if decision.parent != self._proposed and not decision.parent_reason:
            return f"node {self._proposed} was executed; to branch from node {decision.parent} give a parent_reason"
        return blocked(nodes, decision) or refusal(self._session, decision, self._nodes[decision.parent], self._latest)

    @cached_property
    def _proposed(self) -> int:
        """The node that the parent policy proposed, and that the evidence is about."""
        phase = self._records[self._generation].phase("execute")
        assert phase is not None
        return int(phase["node"])

    @cached_property
    def _nodes(self) -> list[Node]:
        return self._session.run.nodes()

    @cached_property
    def _records(self) -> dict[int, GenerationRecord]:
        records = self._session.run.generations()
        return {record.index: record for record in records if record.phase("execute") is not None}

    @cached_property
    def _history(self) -> list[dict[str, Any]]:
        return read_history(self._session.run)

    @cached_property
    def _latest(self) -> list[Rollout]:
        return self._records[self._generation].rollouts("train")


def _whole(decision: Decision) -> tuple[Any, ...]:
    """What is to be done and to which node, without the reasons."""
    return decision.parent, asks(decision)
