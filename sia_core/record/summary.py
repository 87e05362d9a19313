"""Summarise a run in one line."""

from dataclasses import dataclass
from typing import Self

from mlflow.entities import Run

from sia_core.record.tags import Tag


@dataclass(frozen=True)
class RunSummary:
    """Line of `sia status`."""

    name: str
    task: str
    status: str
    generations: str
    levers: str
    score: float | None
    started: int
    """Milliseconds since the epoch."""
    stand_ins: int
    """Decisions that `rules` made in place of the run's agent."""

    @classmethod
    def of(cls, run: Run) -> Self:
        """Summarise an evolution's MLflow run."""
        tags, metrics = run.data.tags, run.data.metrics
        planned = tags.get(f"{Tag.SET}.generations", run.data.params.get("generations", "?"))
        return cls(
            name=tags[Tag.RUN],
            task=tags[Tag.TASK],
            status=str(run.info.status),
            generations=f"{tags.get(Tag.GENERATIONS_DONE, '0')}/{planned}",
            levers=tags.get(Tag.LEVERS, ""),
            score=metrics.get("test.final"),
            started=int(run.info.start_time),
            stand_ins=int(tags.get(Tag.STAND_INS, "0")),
        )
