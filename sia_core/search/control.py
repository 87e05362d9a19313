"""The record of a comparison that ships with a task: sealed scores of each arm and seed, `arms.json`.

A run of the task's recorded decisions is compared with the record, without playing the other arms again.
`sia arms --resume NAME --save FILE` writes the file, which is validated as strictly as recorded decisions.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from sia_core.domain.config import RunConfig
from sia_core.domain.errors import TaskError
from sia_core.domain.invalid import in_words
from sia_core.domain.json_data import Strict
from sia_core.domain.stats import Estimate, estimate
from sia_core.domain.task import ARMS, Task
from sia_core.search.arms import ArmRun

_CONTROL = "rules"


class Sealed(Strict):
    """Sealed score of one run, with the interval over problems."""

    mean: float
    low: float
    high: float
    problems: int

    def __str__(self) -> str:
        return str(Estimate(self.mean, self.low, self.high, self.problems, 0))


class ArmsTable(Strict):
    """Sealed scores of a comparison, by arm and seed."""

    format: Literal["sia-arms/1"] = "sia-arms/1"
    task: str
    digest: str
    """Digest of the task."""
    policy: str
    generations: int
    confidence: float
    made: str
    """Date, UTC."""
    comparison: str
    """Name of the run of the comparison."""
    arms: Mapping[str, Mapping[int, Sealed]]


def table_of(runs: Sequence[ArmRun], config: RunConfig, task: Task, comparison: str) -> ArmsTable:
    """Make the table of finished runs."""
    arms: dict[str, dict[int, Sealed]] = {}
    for run in sorted(runs, key=lambda run: (run.arm, run.seed)):
        found = estimate(run.final, confidence=config.confidence, seed=run.seed)
        sealed = Sealed(mean=found.mean, low=found.low, high=found.high, problems=found.problems)
        arms.setdefault(run.arm, {})[run.seed] = sealed
    return ArmsTable(
        task=task.name,
        digest=task.digest,
        policy=config.policy,
        generations=config.generations,
        confidence=config.confidence,
        made=datetime.now(UTC).date().isoformat(),
        comparison=comparison,
        arms=arms,
    )


def read_table(task: Task) -> ArmsTable | None:
    """The table that ships with a task; None where there is none.

    Raises:
        TaskError: the file is not a valid table.
    """
    file: Path = task.path / ARMS
    if not file.is_file():
        return None
    try:
        return ArmsTable.model_validate_json(file.read_bytes())
    except ValidationError as error:
        hint = "write it again: sia arms --resume NAME --save FILE"
        raise TaskError(in_words(error, ArmsTable), where=str(file), hint=hint) from error


def control_lines(task: Task, config: RunConfig) -> list[str]:
    """Describe the control for a run of recorded decisions: `rules` on the same seed, as recorded."""
    table = read_table(task)
    if table is None:
        return []
    found = table.arms.get(_CONTROL, {}).get(config.seed)
    if found is None:
        seeds = ", ".join(map(str, table.arms.get(_CONTROL, {}))) or "none"
        return [f"control: no run of {_CONTROL} on seed {config.seed} is recorded (seeds: {seeds})"]
    same = (table.digest, table.policy, table.generations) == (task.digest, config.policy, config.generations)
    note = "" if same else "; it was made with other files, another policy or other generations"
    return [
        f"control, recorded on {table.made}: {_CONTROL} on seed {config.seed} reached {found} on the sealed test "
        f"({found.problems} problems){note}"
    ]
