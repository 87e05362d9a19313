"""A round's checkpoint in MLflow is whole or absent, and is restored unchanged on another disk."""

import json
import shutil
from pathlib import Path

import pytest

from sia_core.domain.candidate import Adapter
from sia_core.domain.errors import RecordError
from sia_core.domain.hashing import digest_files
from sia_core.record.generation import GenerationRecord
from sia_core.record.rounds import put_round, take_round
from sia_core.record.store import RunRecord, open_record
from tests.record.test_record import CONFIG, artifact

ADAPTER = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"weights"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    record = open_record(tmp_path_factory.mktemp("home"), None)
    return record.create(CONFIG, {"sia.task": "toy", "sia.task_digest": "d"})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint as the trainer leaves it."""
    folder = tmp_path / "here" / "updates" / tmp_path.name / "round-2"
    (folder / "adapter").mkdir(parents=True)
    for name, data in ADAPTER.items():
        (folder / "adapter" / name).write_bytes(data)
    (folder / "optimizer.safetensors").write_bytes(b"moments")
    (folder / "manifest.json").write_text(json.dumps({"adapter": digest_files(ADAPTER), "metrics": []}))
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def stored(run: RunRecord, folder: Path, number: int) -> GenerationRecord:
    generation = run.generation(1).sibling(number)
    run.put_adapter(Adapter(digest_files(ADAPTER), folder / "adapter"), {}, generation)
    put_round(generation, folder)
    return generation


@pytest.mark.parametrize("sibling", [0, 1])
def test_stored_round_is_read_back(run: RunRecord, folder: Path, sibling: int) -> None:
    generation = stored(run, folder, sibling)
    put_round(generation, folder)
    before = tree(folder)
    assert not take_round(run, generation, folder), "what is here is not fetched"
    shutil.rmtree(folder)
    shutil.rmtree(run.record.cache / "adapters", ignore_errors=True)
    assert take_round(run, generation, folder)
    assert tree(folder) == before
    assert not take_round(run, run.generation(1).sibling(1 - sibling), folder.with_name("round-3"))


def test_interrupted_upload_of_a_round_is_absent(run: RunRecord, folder: Path) -> None:
    generation = run.generation(1)
    for file in ("manifest.json", "optimizer.safetensors"):
        generation.put_file(f"update/{folder.parent.name}/round-2/{file}", folder / file)
    shutil.rmtree(folder)
    assert not take_round(run, generation, folder)
    assert not folder.exists()


def test_torn_round_is_refused(run: RunRecord, folder: Path) -> None:
    generation = stored(run, folder, 0)
    artifact(generation, f"update/{folder.parent.name}/round-2/optimizer.safetensors").write_bytes(b"momen")
    shutil.rmtree(folder)
    with pytest.raises(RecordError, match="was changed or is incomplete"):
        take_round(run, generation, folder)
    assert not folder.exists()
