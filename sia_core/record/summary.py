"""A run in a line."""

from dataclasses import dataclass
from typing import Self

from mlflow.entities import Run


@dataclass(frozen=True)
class RunSummary:
    """One line of `sia status`."""

    name: str
    task: str
    status: str
    generations: str
    levers: str
    score: float | None
    started: int
    """Milliseconds since the epoch."""

    @classmethod
    def of(cls, run: Run) -> Self:
        """Of an evolution's MLflow run."""
        tags, metrics = run.data.tags, run.data.metrics
        planned = tags.get("sia.generations", run.data.params.get("generations", "?"))
        return cls(
            name=tags["sia.run"],
            task=tags["sia.task"],
            status=str(run.info.status),
            generations=f"{tags.get('sia.generations_done', '0')}/{planned}",
            levers=tags.get("sia.levers", ""),
            score=metrics.get("test.final"),
            started=int(run.info.start_time),
        )
