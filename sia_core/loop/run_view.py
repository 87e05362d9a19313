"""Offer an agent the `Source` of a decision: the training split only, and a workbench for drafts."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from sia_core.agents.memory import asks, blocked
from sia_core.agents.trial import Left, Trial
from sia_core.domain.harness import Harness
from sia_core.domain.json_data import read
from sia_core.domain.lineage import Decision, Draft, Node
from sia_core.domain.rollout import Rollout
from sia_core.domain.task import Task
from sia_core.loop.levers import objections
from sia_core.loop.session import Session
from sia_core.loop.workbench import Workbench
from sia_core.record.generation import GenerationRecord
from sia_core.record.history import read_history
from sia_core.record.phases import ExecuteDone


class TaskMaterials:
    """The training side of a task, as a harness sees it."""

    def __init__(self, task: Task) -> None:
        self._task = task

    def problem(self, problem: str) -> Mapping[str, Any] | None:
        """Implement `Materials.problem`."""
        return next((one.public for one in self._task.problems("train") if one.id == problem), None)

    def problem_ids(self) -> Sequence[str]:
        """Implement `Materials.problem_ids`."""
        return [one.id for one in self._task.problems("train")]

    def texts(self) -> Mapping[str, int]:
        """Implement `Materials.texts`."""
        return {name: file.stat().st_size for name, file in self._files.items()}

    def text(self, name: str) -> bytes:
        """Implement `Materials.text`."""
        return self._files[name].read_bytes()

    @cached_property
    def _files(self) -> dict[str, Path]:
        roots = {"references": self._task.path / "references"}
        if self._task.shared is not None:
            roots["shared"] = Path(self._task.shared)
        return {
            f"{name}/{file.relative_to(root).as_posix()}": file
            for name, root in roots.items()
            for file in sorted(root.rglob("*"))
            if file.is_file() and not file.is_symlink()
        }


class SessionSource(TaskMaterials):
    """The `Source` of a decision, which cannot reach rollouts of the gate and of the sealed test."""

    def __init__(self, session: Session, generation: int, siblings: Sequence[Decision] = ()) -> None:
        super().__init__(session.task)
        self._session = session
        self._siblings = tuple(siblings)
        self._generation = generation
        self.workbench = Workbench(session, session.run.generation(generation).sibling(len(siblings)))

    def nodes(self) -> Sequence[Node]:
        """Implement `Source.nodes`."""
        return self._nodes

    def generations(self) -> Sequence[int]:
        """Implement `Source.generations`."""
        return sorted(self._records)

    def rollouts(self, generation: int) -> Sequence[Rollout]:
        """Implement `Source.rollouts`."""
        return self._records[generation].rollouts("train")

    def harness(self, digest: str) -> Harness:
        """Implement `Source.harness`."""
        return self._session.run.harness(digest)

    def drafts(self) -> Sequence[Draft]:
        """Implement `Source.drafts`."""
        return [*self._earlier_drafts, *self.workbench.drafts.values()]

    def draft_rollouts(self, digest: str) -> Sequence[Rollout]:
        """Implement `Source.draft_rollouts`."""
        found = {rollout.unit.key: rollout for rollout in self.workbench.rollouts(digest)}
        for record in self._parts:
            for name in self._sets[record.run_id, record.prefix]:
                if name in (f"draft_{digest}", "minibatch"):
                    rollouts = record.own_rollouts(name)
                    found |= {one.unit.key: one for one in rollouts if one.unit.harness == digest}
        return [found[key] for key in sorted(found)]

    def update(self, node: int) -> Mapping[str, Any] | None:
        """Implement `Source.update`."""
        for part in self._parts:
            spec = part.get_json("update/spec.json")
            if part.index == self._nodes[node].generation and spec is not None:
                return {"spec": spec, **(part.get_json("update/rounds.json") or {})}
        return None

    def history(self) -> Sequence[Mapping[str, Any]]:
        """Implement `Source.history`."""
        return self._history

    def objections(self, decision: Decision) -> Sequence[str]:
        """Implement `Source.objections`."""
        found = []
        if decision.lever != "none" and any(_whole(decision) == _whole(sibling) for sibling in self._siblings):
            found.append("this is what a sibling of this generation does already")
        if not 0 <= decision.parent < len(self._nodes):
            return [f"parent: there is no node {decision.parent}; the lineage has 0 to {len(self._nodes) - 1}"]
        if decision.parent != self._proposed and not decision.parent_reason:
            what = f"node {self._proposed} was executed; to branch from node {decision.parent} give a parent_reason"
            found.append(what)
        if (repeated := blocked(self._nodes, decision)) is not None:
            found.append(repeated)
        return [*found, *objections(self._session, decision, self._nodes[decision.parent], self._latest)]

    def validate(self, decision: Decision) -> Sequence[str]:
        """Implement `Source.validate`."""
        if decision.lever not in ("harness", "both"):
            return ()
        return self.workbench.validate(decision, self._nodes[decision.parent])

    def play(self, draft: Harness, parent: int, problems: Sequence[str], rollouts: int) -> Trial:
        """Implement `Source.play`."""
        return self.workbench.play(draft, self._nodes[parent], problems, rollouts)

    def left(self) -> Left:
        """Implement `Source.left`."""
        return self.workbench.left

    @cached_property
    def _proposed(self) -> int:
        """Node that the parent policy proposed and the evidence describes."""
        phase = self._records[self._generation].phase(ExecuteDone)
        assert phase is not None
        return phase.node

    @cached_property
    def _nodes(self) -> list[Node]:
        return self._session.run.nodes()

    @cached_property
    def _records(self) -> dict[int, GenerationRecord]:
        records = self._session.run.generations()
        return {record.index: record for record in records if record.phase(ExecuteDone) is not None}

    @cached_property
    def _parts(self) -> list[GenerationRecord]:
        """Earlier generations with their siblings, then this generation's earlier siblings."""
        return [
            record.sibling(number)
            for index, record in sorted(self._records.items())
            for number in range(self._session.config.siblings if index < self._generation else len(self._siblings))
        ]

    @cached_property
    def _sets(self) -> dict[tuple[str, str], list[str]]:
        return {(part.run_id, part.prefix): part.rollout_sets() for part in self._parts}

    @cached_property
    def _earlier_drafts(self) -> list[Draft]:
        found = [part.get_json("drafts.json") or {"drafts": ()} for part in self._parts]
        return [read(Draft, draft) for one in found for draft in one["drafts"]]

    @cached_property
    def _history(self) -> list[dict[str, Any]]:
        return read_history(self._session.run)

    @cached_property
    def _latest(self) -> list[Rollout]:
        return self._records[self._generation].rollouts("train")


def _whole(decision: Decision) -> tuple[Any, ...]:
    """Return the parent of a decision and the change that the decision asks for, without the reasons."""
    return decision.parent, asks(decision)
