"""Store a comparison in MLflow: one run, whose children are the runs compared."""

import secrets
from collections.abc import Mapping
from typing import Any

from mlflow.entities import Run

from sia_core.domain.errors import RecordError
from sia_core.host.external import masked
from sia_core.record.store import Record, RunRecord
from sia_core.record.stored import FORMAT, Stored, check_format
from sia_core.record.summary import RunSummary
from sia_core.record.tags import Tag

SCORES = "sealed_scores.json"
"""Artifact of a run with the sealed test's scores by candidate and problem."""


class ArmsRecord(Stored):
    """The MLflow run of a comparison."""

    record: Record

    def __init__(self, record: Record, run: Run) -> None:
        super().__init__(record, run)
        self.name: str = run.data.tags[Tag.ARMS]
        self.task: str = run.data.tags[Tag.TASK]
        self.status = str(run.info.status)
        """Status of the MLflow run at the time the run was read."""

    @classmethod
    def create(
        cls, record: Record, task: str, about: str, plan: Mapping[str, Any], more: Mapping[str, str] | None = None
    ) -> "ArmsRecord":
        """Open a comparison of a task under a fresh name; `plan` is JSON data, `more` are tags."""
        name = f"{task}-arms-{secrets.token_hex(3)}"
        tags = {Tag.KIND: "arms", Tag.FORMAT: FORMAT, Tag.ARMS: name, Tag.TASK: task, "mlflow.note.content": about}
        tags[Tag.LEASE] = record.open_lease(name)
        tags |= more or {}
        made = cls(record, record.client.create_run(record.experiment(task), run_name=name, tags=tags))
        made.put_json("plan.json", plan)
        return made

    @classmethod
    def open(cls, record: Record, name: str) -> "ArmsRecord":
        """Find a comparison by name.

        Raises:
            RecordError: no comparison has this name, or its format is another.
        """
        there = cls.list_all(record)
        for comparison in there:
            if comparison.name == name:
                check_format(record.client.get_run(comparison.run_id), name)
                return comparison
        known = ", ".join(comparison.name for comparison in there[:5]) or "there are none yet"
        raise RecordError(f"unknown comparison {name!r}", where=masked(record.tracking_uri), hint=f"newest: {known}")

    @classmethod
    def list_all(cls, record: Record) -> list["ArmsRecord"]:
        """List all comparisons, newest first."""
        return [cls(record, run) for run in record.search(f"tags.`{Tag.KIND}` = 'arms'")]

    def set_plan(self, about: str, plan: Mapping[str, Any]) -> None:
        """Replace the plan to compare more than was planned; arguments are as for `create`."""
        self.put_json("plan.json", plan)
        self.set_tags({"mlflow.note.content": about})

    @property
    def plan(self) -> dict[str, Any]:
        """Plan of what is compared, as JSON data; empty where none is stored."""
        plan: dict[str, Any] = self.get_json("plan.json") or {}
        return plan

    @property
    def lease_id(self) -> str:
        """MLflow run that names the process holding the comparison."""
        return self.tags.get(Tag.LEASE, self.run_id)

    def members(self) -> dict[tuple[int, str], RunRecord]:
        """Find the existing runs by seed and arm."""
        return {key: RunRecord(self.record, run) for key, run in self._members().items()}

    def summaries(self) -> dict[tuple[int, str], RunSummary]:
        """Summarise each run of the comparison in a line, by seed and arm."""
        return {key: RunSummary.of(run) for key, run in self._members().items()}

    def _members(self) -> dict[tuple[int, str], Run]:
        found = self.record.search(f"tags.`{Tag.ARMS}` = '{self.name}' and tags.`{Tag.KIND}` = 'evolution'")
        return {(int(run.data.tags[Tag.SEED]), run.data.tags[Tag.ARM]): run for run in found}

    def member_tags(self, seed: int, arm: str) -> dict[str, str]:
        """Return the tags that make a run a member of the comparison."""
        return {"mlflow.parentRunId": self.run_id, Tag.ARMS: self.name, Tag.ARM: arm, Tag.SEED: str(seed)}

    def reopen(self) -> None:
        """Mark the comparison as running again."""
        self.record.fence()
        self.record.client.update_run(self.run_id, status="RUNNING")
