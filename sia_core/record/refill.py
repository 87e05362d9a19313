"""Fill an empty journal from MLflow, so that another machine need not repeat rollouts of finished phases."""

from collections.abc import Iterator
from pathlib import Path

from sia_core.domain.rollout import Rollout
from sia_core.record import parquet
from sia_core.record.generation import GenerationRecord
from sia_core.record.journal import Journal
from sia_core.record.rewind import forgotten
from sia_core.record.store import RunRecord


def refill(run: RunRecord, journal: Journal) -> int:
    """Put all recorded rollouts of a run into a journal, forgotten generations included, and return how many are new.

    Their cost is already in the record (`spending.json`) and is not counted here.
    """
    generations = [*run.generations(), *forgotten(run)]
    return sum(journal.put(rollout) for generation in generations for rollout in _rollouts(generation))


def _rollouts(generation: GenerationRecord) -> Iterator[Rollout]:
    """Yield the rollouts of the generation and all its siblings."""
    listing = generation.record.client.list_artifacts
    siblings = [file.path for file in listing(generation.run_id) if file.path.startswith("sibling_")]
    for folder in ("rollouts", *(f"{path}/rollouts" for path in siblings)):
        for file in listing(generation.run_id, folder):
            data = generation.get_bytes(file.path) if Path(file.path).suffix == ".parquet" else None
            yield from parquet.read(data) if data is not None else ()
