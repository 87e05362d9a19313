"""Keep the candidates of a run: harnesses and adapters by digest, and the task's champion in the registry."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sia_core.domain.candidate import Adapter, Candidate
from sia_core.domain.errors import RecordError
from sia_core.domain.harness import Harness
from sia_core.domain.hashing import digest_files
from sia_core.record import models
from sia_core.record.stored import Stored
from sia_core.record.tags import Tag
from sia_core.record.trust import check_place

PARAM_TEXT = 500
"""Most characters of a parameter's value: the limit in the narrowest of MLflow's databases."""
_HARNESSES = 64
"""Harnesses kept at hand."""


class Candidates(Stored):
    """The part of a run's record that holds candidates."""

    name: str
    """Name of the run."""

    def put_harness(self, harness: Harness) -> None:
        """Store a harness by digest."""
        with tempfile.TemporaryDirectory(prefix="sia-") as folder:
            root = Path(folder) / harness.digest
            for name, data in harness.files.items():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_bytes(data)
            self.put_folder(root, f"harnesses/{harness.digest}")

    def harness(self, digest: str) -> Harness:
        """A stored harness, checked against its digest."""
        kept = self.record.harnesses
        found = kept.pop(digest, None) or self._read_harness(digest)
        kept[digest] = found
        if len(kept) > _HARNESSES:
            kept.pop(next(iter(kept)), None)
        return found

    def put_adapter(self, adapter: Adapter, spec: Mapping[str, Any] | None = None, source: Stored | None = None) -> str:
        """Store an adapter as a LoggedModel and return its id, to log metrics with. Twice is once.

        Args:
            adapter: with its files.
            spec: what made it; becomes the model's parameters.
            source: the generation it was made in.
        """
        self.record.fence()
        check_place(self.record, self._place)  # Models lie beside the runs of their experiment.
        params = {key: str(value)[:PARAM_TEXT] for key, value in (spec or {}).items() if value is not None}
        run_id = source.run_id if source else self.run_id
        return models.log_adapter(self.record.client, self.experiment_id, self.name, run_id, adapter, params)

    def adapter(self, digest: str | None) -> Adapter | None:
        """A stored adapter on local disk, checked against its digest; None for the bare policy."""
        if digest is None:
            return None
        local = self.record.cache / "adapters" / digest
        if not local.exists():
            model = models.find_adapter(self.record.client, self.experiment_id, self.name, digest)
            if model is None or not models.is_whole(model):
                raise RecordError(f"adapter {digest[:12]} is missing", where=self.name)
            whole = model
            check_place(self.record, whole.artifact_location)
            files = self.record.waiting(lambda: models.read_adapter(self.record.tracking_uri, whole))
            if digest_files(files) != digest:
                raise RecordError(f"adapter {digest[:12]} was changed or is incomplete", where=self.name)
            local.parent.mkdir(parents=True, exist_ok=True)
            staging = Path(tempfile.mkdtemp(dir=local.parent))
            for name, data in files.items():
                (staging / name).write_bytes(data)
            staging.rename(local)
        return Adapter(digest, local)

    def promote(self, candidate: Candidate, index: int) -> None:
        """Make a candidate the champion of its task in MLflow's registry. Twice is once.

        Args:
            candidate: its harness and adapter are stored.
            index: its lineage node.
        """
        self.record.fence()
        client, task = self.record.client, self.tags[Tag.TASK]
        root = client.get_run(self.run_id).info.artifact_uri
        harness = models.Entry(candidate.harness, f"{root}/harnesses/{candidate.harness}", self.run_id)
        models.crown(client, f"{task}-harness", self.name, index, harness)
        if candidate.adapter is None:
            models.dethrone(client, f"{task}-adapter", self.name)
            return
        model = models.find_adapter(client, self.experiment_id, self.name, candidate.adapter)
        if model is None:
            raise RecordError(f"adapter {candidate.adapter[:12]} is missing", where=self.name)
        entry = models.Entry(
            candidate.adapter, model.artifact_location, model.source_run_id or self.run_id, model.model_id
        )
        models.crown(client, f"{task}-adapter", self.name, index, entry)

    def demote(self) -> None:
        """Take the registry's champion from this run; another run's stays."""
        self.record.fence()
        for kind in ("harness", "adapter"):
            models.dethrone(self.record.client, f"{self.tags[Tag.TASK]}-{kind}", self.name)

    def _read_harness(self, digest: str) -> Harness:
        files = self.get_tree(f"harnesses/{digest}")
        if files is None:
            raise RecordError(f"harness {digest[:12]} is missing", where=self.name)
        harness = Harness.from_files(files, where=digest[:12])
        if harness.digest != digest:
            what = f"harness {digest[:12]} was changed: its digest is {harness.digest[:12]}"
            raise RecordError(what, where=self.name)
        return harness
