"""Notice that runs under a task's name belong to another directory's task.

A run belongs to a task if their directories or their digests are the same: a task may be edited where it is, and moved
as it is. A directory elsewhere with other files is another task of the same name. Its runs stand in the same experiment
of MLflow, but no agent learns from them, and no run branches from one of them.
"""

from collections.abc import Iterable

from mlflow.entities import Run

from sia_core.domain.task import Task
from sia_core.record.store import Record
from sia_core.record.tags import Tag


def is_of(run: Run, task: Task) -> bool:
    """Return True if a run belongs to this task, in any of its forms."""
    if run.data.tags.get(Tag.TASK_DIGEST, task.digest) == task.digest:
        return True
    recorded, form = str(run.data.params.get("task", "")), f":{task.form}" if task.form else ""
    place = task.where.removesuffix(form)
    return recorded == place or recorded.startswith(f"{place}:") or not recorded


def namesakes(record: Record, task: Task) -> list[Run]:
    """Find the runs of other tasks that have this task's name, newest first."""
    found = record.search(f"tags.`{Tag.KIND}` = 'evolution' and tags.`{Tag.TASK}` = '{task.name}'")
    return [run for run in found if not is_of(run, task)]


def names_of(runs: Iterable[Run]) -> set[str]:
    """Names of these runs."""
    return {run.data.tags[Tag.RUN] for run in runs}
