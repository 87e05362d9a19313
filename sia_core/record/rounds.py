"""Store checkpoints of an update's rounds in MLflow, so that another machine can resume an interrupted training.

The adapter of a round is already a LoggedModel. The rest of its checkpoint is stored here: manifest, optimiser, value
head. `complete.json` with the digests of these files comes last, and a checkpoint without it does not count.
"""

import json
import shutil
import tempfile
from pathlib import Path

from sia_core.domain.errors import RecordError
from sia_core.domain.hashing import digest_bytes
from sia_core.record.generation import GenerationRecord
from sia_core.record.store import RunRecord

COMPLETE = "complete.json"
_ADAPTER = "adapter"


def put_round(generation: GenerationRecord, folder: Path) -> None:
    """Store a round's checkpoint, unless it is already stored.

    Args:
        generation: generation of the update.
        folder: `.../SPEC/round-N`; its adapter is already stored as a LoggedModel.
    """
    place = _place(folder)
    if generation.get_bytes(f"{place}/{COMPLETE}") is not None:
        return
    files = sorted(file for file in folder.iterdir() if file.is_file())
    for file in files:
        generation.put_file(f"{place}/{file.name}", file)
    generation.put_json(f"{place}/{COMPLETE}", {file.name: digest_bytes(file.read_bytes()) for file in files})


def take_round(run: RunRecord, generation: GenerationRecord, folder: Path) -> bool:
    """Download a round's checkpoint if only MLflow has it; return True if it did.

    Raises:
        RecordError: the stored files were changed or are incomplete.
    """
    if folder.exists():
        return False
    place = _place(folder)
    if generation.get_bytes(f"{place}/{COMPLETE}") is None:
        return False
    files = generation.get_tree(place) or {}
    digests = json.loads(files.pop(COMPLETE))
    if {name: digest_bytes(data) for name, data in files.items()} != digests:
        raise RecordError(
            f"{place} was changed or is incomplete",
            where=f"MLflow run {generation.run_id}",
            hint="restore the artifact store, or start a new run",
        )
    adapter = run.adapter(json.loads(files["manifest.json"])[_ADAPTER])
    assert adapter is not None
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".taking-"))
    for name, data in files.items():
        (staging / name).write_bytes(data)
    shutil.copytree(adapter.path, staging / _ADAPTER)
    staging.rename(folder)
    return True


def _place(folder: Path) -> str:
    return f"update/{folder.parent.name}/{folder.name}"
