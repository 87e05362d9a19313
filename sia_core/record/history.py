"""Collect generations of earlier runs of the task, without the sealed test, for an agent to learn from.

They are stored once, when a run begins, so that a resumed or replayed run sees the same history.
"""

from typing import Any

from mlflow.entities import Run

from sia_core.domain.task import Task
from sia_core.record.namesakes import names_of, namesakes
from sia_core.record.store import Record, RunRecord
from sia_core.record.tags import Tag

FILE = "history.json"
MAX_ROWS = 400
_METRICS = (
    "train.score",
    "train.best_of_k",
    "train.mixed_groups",
    "train.failed",
    "gate.parent",
    "gate.child",
    "gate.gain",
)


def take_history(record: Record, experiment_id: str, except_run: str, task: Task | None = None) -> list[dict[str, Any]]:
    """Read the finished generations of other runs, newest first, at most MAX_ROWS rows.

    Args:
        task: leave out runs of other tasks with the name of this task.
    """
    apart = names_of(namesakes(record, task)) if task is not None else set()
    left_out = {except_run, *apart}
    query = f"tags.`{Tag.KIND}` = 'generation'"
    newest = ["attributes.start_time DESC"]
    runs = record.client.search_runs([experiment_id], query, max_results=MAX_ROWS, order_by=newest)
    return [_row(run) for run in runs if run.data.tags[Tag.RUN] not in left_out and Tag.PROMOTED in run.data.tags]


def read_history(run: RunRecord) -> list[dict[str, Any]]:
    """The rows that were taken when the run began."""
    rows: list[dict[str, Any]] = run.get_json(FILE) or []
    return rows


def _row(run: Run) -> dict[str, Any]:
    tags, metrics = run.data.tags, run.data.metrics
    numbers = {name: round(metrics[name], 6) for name in _METRICS if name in metrics}
    return {
        "run": tags[Tag.RUN],
        "generation": int(tags[Tag.GENERATION]),
        "lever": tags.get(Tag.LEVER, ""),
        "category": tags.get(Tag.CATEGORY, ""),
        "promoted": tags[Tag.PROMOTED] == "true",
        **numbers,
    }
