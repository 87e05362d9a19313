"""Store a generation as a run in MLflow."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from mlflow.entities import Run

from sia_core.domain.errors import RecordError
from sia_core.domain.rollout import Rollout
from sia_core.record import parquet
from sia_core.record.phases import Phase
from sia_core.record.stored import Done, Store, Stored, checked_phase, complete_phase
from sia_core.record.tags import Tag


class GenerationRecord(Stored):
    """The MLflow run of a generation."""

    def __init__(self, record: Store, run: Run) -> None:
        super().__init__(record, run)
        self._run, self._first = run, self
        self.index = int(run.data.tags[Tag.GENERATION])

    def sibling(self, number: int) -> "GenerationRecord":
        """Return this run with a separate place for artifacts and metrics of child `number`; 0 is the first child.

        All children share the phases and training rollouts.
        """
        if number == 0:
            return self
        apart = GenerationRecord(self.record, self._run)
        apart.prefix, apart._first = f"sibling_{number}/", self
        return apart

    def phase(self, kind: type[Done]) -> Done | None:
        """Read the result of a phase, or None when it is not complete.

        Raises:
            RecordError: the artifact does not match its digest or was written by another version.
        """
        return checked_phase(self._first, kind)

    def complete(self, done: Phase, tags: Mapping[str, str] | None = None) -> None:
        """Mark a phase complete, after its other artifacts are stored."""
        complete_phase(self, done, tags)

    def put_rollouts(self, name: str, rollouts: Sequence[Rollout]) -> None:
        """Store records as `rollouts/NAME.parquet`."""
        with tempfile.TemporaryDirectory(prefix="sia-") as folder:
            file = Path(folder) / f"{name}.parquet"
            parquet.write(file, rollouts)
            self.put_file(f"rollouts/{name}.parquet", file)

    def training(self) -> list[str]:
        """List the stored rollout sets of training problems: `train`, then the rounds of an update."""
        names = self.rollout_sets()
        rounds = sorted((name for name in names if name.startswith("round_")), key=lambda name: int(name[6:]))
        return [*(name for name in names if name == "train"), *rounds]

    def rollout_sets(self) -> list[str]:
        """List the names under which rollouts are stored: `train`, `round_N`, `anchors_SIDE`, `gate_SIDE`."""
        found = self.record.client.list_artifacts(self.run_id, self.prefix + "rollouts")
        return sorted(Path(file.path).stem for file in found)

    def rollout_file(self, name: str) -> bytes | None:
        """Return a set's Parquet file (`record.parquet` reads it), None when there is none."""
        stored = self._first if name == "train" else self
        return stored.get_bytes(f"rollouts/{name}.parquet")

    def rollouts(self, name: str) -> list[Rollout]:
        """Read the records of a set.

        Raises:
            RecordError: the set is missing.
        """
        return (self._first if name == "train" else self).own_rollouts(name)

    def own_rollouts(self, name: str) -> list[Rollout]:
        """Read the records of a set from this sibling only.

        Raises:
            RecordError: the set is missing.
        """
        data = self.get_bytes(f"rollouts/{name}.parquet")
        if data is None:
            raise RecordError(f"rollouts/{name}.parquet is missing", where=f"MLflow run {self.run_id}")
        return parquet.read(data)
