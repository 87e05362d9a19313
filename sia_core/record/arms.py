"""Store a comparison in MLflow: one run, whose children are the runs compared."""

import secrets
from collections.abc import Mapping
from typing import Any

from mlflow.entities import Run

from sia_core.domain.errors import RecordError
from sia_core.domain.hashing import digest_json
from sia_core.host.external import masked
from sia_core.record.store import Record, RunRecord
from sia_core.record.stored import FORMAT, Stored, check_format
from sia_core.record.summary import RunSummary
from sia_core.record.tags import Tag
from sia_core.record.trust import check_seal, sealed

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
        tags |= {Tag.CONFIG: digest_json(dict(plan)), **(more or {})}
        run = record.client.create_run(record.experiment(task), run_name=name, tags=tags)
        made = cls(record, run)
        made.put_json(_plan_file(tags[Tag.CONFIG]), dict(plan))
        made.set_tags(sealed(record, run))
        return made

    @classmethod
    def open(cls, record: Record, name: str) -> "ArmsRecord":
        """Find a comparison of this SIA_HOME by name.

        Raises:
            RecordError: no comparison has this name, its format is another, or another SIA_HOME wrote it.
        """
        found = cls.find(record, name)
        check_seal(record, record.client.get_run(found.run_id), name)
        return found

    @classmethod
    def find(cls, record: Record, name: str) -> "ArmsRecord":
        """Find a comparison of any SIA_HOME by name; see `open`."""
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
        run = self.record.client.get_run(self.run_id)
        check_seal(self.record, run, self.name)
        changes = {Tag.CONFIG: digest_json(dict(plan)), "mlflow.note.content": about}
        self.put_json(_plan_file(changes[Tag.CONFIG]), dict(plan))
        self.set_tags({**changes, **sealed(self.record, run, {**run.data.tags, **changes})})

    @property
    def plan(self) -> dict[str, Any]:
        """Plan of what is compared, as JSON data; empty where none is stored.

        Raises:
            RecordError: another SIA_HOME wrote it.
        """
        check_seal(self.record, self.record.client.get_run(self.run_id), self.name)
        return self.unsealed_plan

    @property
    def unsealed_plan(self) -> dict[str, Any]:
        """Read the plan of any SIA_HOME, only to show it."""
        plan: dict[str, Any] = self.get_json(_plan_file(self.tags[Tag.CONFIG])) or {}
        if plan and digest_json(plan) != self.tags[Tag.CONFIG]:
            raise RecordError("its plan was changed", where=self.name, hint="restore the artifact store")
        return plan

    def adopt(self) -> None:
        """Seal the comparison as it is, so that this SIA_HOME resumes it."""
        self.set_tags(sealed(self.record, self.record.client.get_run(self.run_id)))

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


def _plan_file(digest: str) -> str:
    """Name the file after its content: a plan that replaces another must not be lost with the tag that names it."""
    return f"plans/{digest}.json"
