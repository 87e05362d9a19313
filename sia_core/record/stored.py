"""Implement what evolution and generation runs share in MLflow: artifacts, tags, metrics, phases."""

import json
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, TypeVar

from mlflow import MlflowClient
from mlflow.entities import Metric, Run, RunTag
from pydantic import ValidationError

from sia_core.domain.errors import RecordError
from sia_core.domain.harness import Harness
from sia_core.domain.hashing import canonical_json, digest_bytes
from sia_core.domain.invalid import in_words
from sia_core.record.patience import Waiting
from sia_core.record.phases import Phase
from sia_core.record.tags import Tag
from sia_core.record.trust import check_place

TAG_TEXT = 4000
"""Most characters of a tag: MLflow silently cuts tags at 8,000, so longer text is an artifact."""
LINEAGE = frozenset({Tag.PHASE_IMPROVE, Tag.KIND})
"""Tags of a generation by which it belongs to the lineage."""
Done = TypeVar("Done", bound=Phase)


FORMAT = "sia-record/3"
"""Format of a stored run or comparison; any other format is refused, never read in part."""


def check_format(run: Run, name: str) -> None:
    """Refuse a record of another format.

    Raises:
        RecordError: its format is another.
    """
    found = run.data.tags.get(Tag.FORMAT, "sia-record/1")
    if found != FORMAT:
        made_by = run.data.tags.get(Tag.VERSION, "an earlier version")
        hint = f"read it with the SIA that made it ({made_by}), or start a new run"
        raise RecordError(f"is a record of format {found}; this SIA reads {FORMAT}", where=name, hint=hint)


class Fence(Protocol):
    """Callable with the contract of `lease.Lease.check`."""

    def __call__(self, *, surely: bool = False) -> None:
        """Raises HeldError when another process has taken the run over."""


def no_fence(*, surely: bool = False) -> None:
    """Do nothing, as the fence of a record without a holder."""


class Store(Protocol):
    """Attributes of a `store.Record` that `Stored` needs."""

    tracking_uri: str
    cache: Path
    client: MlflowClient
    waiting: Waiting
    fence: Fence
    phases: dict[str, bytes]
    harnesses: dict[str, Harness]
    known: dict[str, list[Run]]


class Stored:
    """Base of evolution and generation runs: artifacts, tags, metrics."""

    def __init__(self, record: Store, run: Run) -> None:
        self.record = record
        self.run_id: str = run.info.run_id
        self.experiment_id: str = run.info.experiment_id
        self._place = str(run.info.artifact_uri)
        self._started = int(run.info.start_time)
        self.prefix = ""
        """Text before the name of each artifact and metric."""

    @property
    def started(self) -> datetime:
        """Start of the run, UTC."""
        return datetime.fromtimestamp(self._started / 1000, UTC)

    @property
    def tags(self) -> dict[str, str]:
        """Read the current tags from MLflow."""
        return dict(self.record.client.get_run(self.run_id).data.tags)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set several tags at once."""
        self.record.fence()
        entries = [RunTag(key, value[:TAG_TEXT]) for key, value in tags.items()]
        self.record.client.log_batch(self.run_id, tags=entries)
        if not LINEAGE.isdisjoint(tags):
            self.record.known.clear()

    def end(self, status: str) -> None:
        """Close the MLflow run as FINISHED, FAILED or KILLED."""
        self.record.fence()
        self.record.client.set_terminated(self.run_id, status)

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0, model: str | None = None) -> None:
        """Log numbers at a step, for an adapter's LoggedModel if its id is given; idempotent."""
        self.record.fence()
        entries = [
            Metric(self.prefix + key, float(value), self._started + step, step, model_id=model)
            for key, value in metrics.items()
        ]
        self.record.client.log_batch(self.run_id, metrics=entries)

    def metric_history(self, beginning: str) -> dict[str, list[tuple[int, float]]]:
        """Read step and value of all points of the metrics with this prefix, by the rest of the name."""
        start = self.prefix + beginning
        names = [name for name in self.record.client.get_run(self.run_id).data.metrics if name.startswith(start)]
        histories = {name: self.record.client.get_metric_history(self.run_id, name) for name in sorted(names)}
        return {
            name.removeprefix(start): [(int(point.step), float(point.value)) for point in points]
            for name, points in histories.items()
        }

    def put_json(self, name: str, value: Any) -> str:
        """Store JSON as an artifact and return its digest."""
        data = canonical_json(value)
        self.put_bytes(name, data)
        return digest_bytes(data)

    def put_bytes(self, name: str, data: bytes) -> None:
        """Store one artifact."""
        with tempfile.TemporaryDirectory(prefix="sia-") as folder:
            file = Path(folder) / Path(name).name
            file.write_bytes(data)
            self.put_file(name, file)

    def put_file(self, name: str, file: Path) -> None:
        """Store one artifact from disk under the file's own name."""
        self.record.fence()
        check_place(self.record, self._place)
        parent = str(Path(self.prefix + name).parent)
        self.record.client.log_artifact(self.run_id, str(file), None if parent == "." else parent)

    def put_folder(self, folder: Path, into: str | None = None) -> None:
        """Store the files of a directory as artifacts, below `into` if given."""
        self.record.fence()
        check_place(self.record, self._place)
        self.record.client.log_artifacts(self.run_id, str(folder), into)

    def get_bytes(self, name: str) -> bytes | None:
        """Read an artifact, None when there is none."""
        files = self.get_tree(name)
        return None if files is None else files[Path(name).name]

    def get_json(self, name: str) -> Any:
        """Read a JSON artifact, None when there is none."""
        data = self.get_bytes(name)
        return None if data is None else json.loads(data)

    def get_tree(self, name: str) -> dict[str, bytes] | None:
        """Read an artifact file or folder ("" for all) by relative names, None when there is none.

        Raises:
            RecordError: the run's artifacts lie in an unexpected place.
        """
        check_place(self.record, self._place)
        if name and not self._has(self.prefix + name):
            return None
        with tempfile.TemporaryDirectory(prefix="sia-") as folder:
            path = Path(self.record.client.download_artifacts(self.run_id, self.prefix + name, folder))
            if path.is_file():
                return {path.name: path.read_bytes()}
            found = (file for file in sorted(path.rglob("*")) if file.is_file())
            return {file.relative_to(path).as_posix(): file.read_bytes() for file in found} or None

    def _has(self, path: str) -> bool:
        """Return True if the artifact exists, which `get_tree` checks before it downloads.

        A server whose store is down must not look like an empty one. A server on S3 answers the download of an absent
        artifact with an error that the client retries for minutes.
        """
        parent = str(PurePosixPath(path).parent)
        found = self.record.client.list_artifacts(self.run_id, None if parent == "." else parent)
        return any(file.path == path for file in found)


def checked_phase(stored: Stored, kind: type[Done], tags: Mapping[str, str] | None = None) -> Done | None:
    """Implement `GenerationRecord.phase`, with `tags` if they were just read."""
    digest = (stored.tags if tags is None else tags).get(f"{Tag.PHASE}.{kind.NAME}")
    if digest is None:
        return None
    phases = stored.record.phases
    if (data := phases.get(digest)) is None:
        data = phases[digest] = _read_phase(stored, kind.NAME, digest)
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        raise RecordError(
            f"phases/{kind.NAME}.json was written by another version of SIA: {in_words(error, kind)}",
            where=f"MLflow run {stored.run_id}",
            hint=f"use the version in its tag {Tag.VERSION}, or start a new run",
        ) from error


def _read_phase(stored: Stored, name: str, digest: str) -> bytes:
    data = stored.get_bytes(f"phases/{name}.json")
    if data is None or digest_bytes(data) != digest:
        raise RecordError(
            f"phases/{name}.json is missing or was changed",
            where=f"MLflow run {stored.run_id}",
            hint="restore the artifact store, or start a new run",
        )
    return data


def complete_phase(stored: Stored, done: Phase, tags: Mapping[str, str] | None = None) -> None:
    """Implement `GenerationRecord.complete`."""
    stored.record.fence(surely=True)
    digest = stored.put_json(f"phases/{done.NAME}.json", done.model_dump(mode="json"))
    stored.set_tags({**(tags or {}), f"{Tag.PHASE}.{done.NAME}": digest})
