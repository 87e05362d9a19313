"""Counts that the task runs on, where they come from, and the proof that they are the pinned ones.

A *setting* names the data set that problems are made of and the hidden second one: `celltypist` (the sample in the
celltypist wheel, fetched) with `pbmc68k` (in the installed scanpy package, no network), and others. One is never put in
the other's place: `SIA_DENOISING_DATA` chooses, else source.json, where the first `prepare` that succeeded recorded its
choice, else celltypist; what cannot be had is an error that names the ways on. The record is never rewritten, so that
trying another setting cannot change what a run in progress uses. Every problem id and every problem's facts carry
the setting's name.

Stored: one .npz a data set, cells x top genes, int32, checked at every load against the digest in task.toml; where none
is pinned there, against the one found when it was stored.
"""

import contextlib
import importlib.util
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from sia_core.domain.errors import FetchError, TaskError, UsageError
from sia_core.domain.hashing import digest_bytes
from sia_core.host.downloads import Remote, Wheel, extract, fetch_remote, fetch_wheel
from sia_core.host.home import home
from tasks.denoising.settings import data_settings

Source = Literal["celltypist", "pbmc68k", "pbmc1k", "pancreas"]
Progress = Callable[[str, int, int], None]
IntCounts = npt.NDArray[np.int32]

CHOICE = "SIA_DENOISING_DATA"
CSV = "celltypist/data/samples/sample_cell_by_gene.csv"
_MOST_BYTES = 2 << 30
"""Most bytes of a fetched file."""


@dataclass(frozen=True)
class Setting:
    """Data sets that problems are made of."""

    name: str
    source: Source
    other: Source | None
    """The hidden second data set; None is weaker, and the name says so."""


SETTINGS: Mapping[str, Setting] = {
    setting.name: setting
    for setting in (
        Setting("celltypist", "celltypist", "pbmc68k"),
        Setting("pbmc68k", "pbmc68k", "celltypist"),
        Setting("pbmc68k-alone", "pbmc68k", None),
        Setting("pbmc1k", "pbmc1k", "pbmc68k"),
        Setting("pancreas", "pancreas", "pbmc68k"),
    )
}


def store() -> Path:
    """Directory of the prepared counts."""
    return home() / "data" / "denoising"


def chosen() -> Setting:
    """The setting in use here.

    Raises:
        UsageError: the environment variable names none of them.
    """
    asked = os.environ.get(CHOICE, "").strip() or _recorded()
    if asked not in SETTINGS:
        raise UsageError(f"{CHOICE}={asked!r} is no data set", hint=f"use one of: {', '.join(SETTINGS)}")
    return SETTINGS[asked]


def source_named(name: str) -> Source:
    """The data set of that name.

    Raises:
        UsageError: there is none.
    """
    for source in get_args(Source):
        if name == source:
            return source  # type: ignore[no-any-return]
    raise UsageError(f"no data set {name!r}", hint=f"use one of: {', '.join(get_args(Source))}")


def _recorded() -> str:
    file = store() / "source.json"
    return str(json.loads(file.read_text())["source"]) if file.exists() else "celltypist"


def prepare(progress: Progress) -> None:
    """Have the chosen counts in the store, those of the hidden data set too, and record the choice if it is the first.

    Raises:
        FetchError: they can neither be found nor fetched, or are not the pinned ones.
    """
    setting = chosen()
    store_counts(setting.source, progress)
    if setting.other is not None:
        try:
            store_counts(setting.other, progress)
        except FetchError as error:
            what = f"the hidden second data set {setting.other} cannot be had: {error.what}"
            raise FetchError(what, where=error.where, hint=error.hint) from error
    load_counts(setting.source)
    record = json.dumps({"source": setting.name, "counts_sha256": _wanted_digest(setting.source)}) + "\n"
    file = store() / "source.json"
    if not file.exists():
        _replace(file, record.encode())


def store_counts(source: Source, progress: Progress) -> None:
    """Have the counts of one data set in the store.

    Raises:
        FetchError: they can neither be found nor fetched.
    """
    if file_of(source).exists():
        return
    read: Mapping[Source, Callable[[], IntCounts]] = {
        "celltypist": lambda: _from_wheel(progress),
        "pbmc68k": _from_scanpy,
        "pbmc1k": lambda: _read_10x(_fetched("pbmc1k", progress)),
        "pancreas": lambda: _read_pancreas(_fetched("pancreas", progress)),
    }
    _save(source, read[source]())


@cache
def load_counts(source: Source) -> IntCounts:
    """Read prepared counts and check their digest.

    Raises:
        TaskError: they are not there, or not the pinned ones.
    """
    file = file_of(source)
    if not file.exists():
        raise TaskError("the data are not prepared", where=str(file), hint=f"run: sia data fetch denoising {source}")
    with np.load(file, allow_pickle=False) as archive:
        counts: IntCounts = archive["counts"]
    wanted, found = _wanted_digest(source), digest_counts(counts)
    if found != wanted:
        what = f"the counts have digest {found}, not {wanted or 'a known one'}"
        raise TaskError(what, where=str(file), hint="remove that file and run again")
    counts.setflags(write=False)
    return counts


def _wanted_digest(source: Source) -> str:
    """Pinned in task.toml, or found when the data were first stored on this machine."""
    note = _note(source)
    pinned = data_settings().get(f"{source}_counts_sha256", "")
    return pinned or (note.read_text().strip() if note.exists() else "")


def _note(source: Source) -> Path:
    return store() / f"{source}.sha256"


def digest_counts(counts: IntCounts) -> str:
    """Over shape and values, whatever the file format or the machine's byte order."""
    values = np.ascontiguousarray(counts, dtype="<i4")
    return digest_bytes(f"{values.shape}".encode() + values.tobytes())


def top_genes(counts: IntCounts, number: int) -> IntCounts:
    """The `number` genes with most counts, in their original order."""
    order = np.argsort(-counts.sum(axis=0, dtype=np.int64), kind="stable")[:number]
    return np.ascontiguousarray(counts[:, np.sort(order)])


def file_of(source: Source) -> Path:
    """Where a data set's counts are kept."""
    return store() / f"{source}.npz"


def _save(source: Source, counts: IntCounts) -> None:
    kept = top_genes(counts, int(data_settings()["genes"]))
    if not data_settings().get(f"{source}_counts_sha256"):
        _replace(_note(source), f"{digest_counts(kept)}\n".encode())
    with tempfile.TemporaryFile() as file:
        np.savez_compressed(file, counts=kept)
        file.seek(0)
        _replace(file_of(source), file.read())


def _replace(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "wb") as file:
        file.write(data)
    Path(name).replace(path)


def _wheel() -> Wheel:
    pinned = data_settings()
    return Wheel("celltypist", pinned["celltypist"], pinned["celltypist_wheel_sha256"], int(pinned["celltypist_size"]))


def _from_wheel(progress: Progress) -> IntCounts:
    try:
        wheel = fetch_wheel(_wheel(), progress=lambda done, total: progress("celltypist sample", done, total))
    except FetchError as error:
        raise FetchError(error.what, where=error.where, hint=_both_ways(error.hint)) from error
    with tempfile.TemporaryDirectory() as folder:
        return _parse_csv(extract(wheel, CSV, Path(folder) / "sample.csv"), progress)


def _both_ways(hint: str) -> str:
    other = f"or {CHOICE}=pbmc68k-alone for the smaller data set that the scanpy package carries, without a second one"
    return f"{hint}; {other} (other scores)"


def _parse_csv(file: Path, progress: Progress) -> IntCounts:
    """Whole molecules of every cell: the sample holds background-corrected counts, so fractions are cut off."""
    with file.open() as lines:
        next(lines)
        rows = []
        for number, line in enumerate(lines, 1):
            values = np.array(line.rstrip("\n").split(",")[1:], dtype=np.float64)
            rows.append(np.floor(values).astype(np.int32))
            if number % 50 == 0:
                progress("reading counts", number, number + 1)
    progress("reading counts", len(rows), len(rows))
    return np.stack(rows)


def _from_scanpy() -> IntCounts:
    """Counts of scanpy's pbmc68k_reduced, undone from log(1 + 1e4 * count / total).

    Raises:
        FetchError: scanpy is not installed.
    """
    spec = importlib.util.find_spec("scanpy")
    if spec is None or spec.origin is None:
        raise FetchError("scanpy is not installed", where="pbmc68k", hint="pip install 'scanpy>=1.11.5,<1.12'")
    return _read_reduced(Path(spec.origin).parent / "datasets" / "10x_pbmc68k_reduced.h5ad")


def _fetched(source: Source, progress: Progress) -> Path:
    """The published file of a data set, fetched once."""
    table = data_settings()
    url = table[f"{source}_url"]
    remote = Remote(url, f"{source}{table[f'{source}_suffix']}", _MOST_BYTES, table.get(f"{source}_sha256", ""))
    try:
        return fetch_remote(remote, lambda done, total: progress(f"{source} counts", done, total))
    except FetchError as error:
        raise FetchError(error.what, where=error.where, hint=_both_ways(error.hint)) from error


def _read_10x(file: Path) -> IntCounts:
    """The filtered matrix of a 10x run: genes x cells, by columns."""
    import h5py  # type: ignore[import-untyped]  # heavy, and there only with scanpy

    with _told(file), h5py.File(file) as file_:
        matrix: Any = file_["matrix"]
        genes, cells = (int(size) for size in matrix["shape"])
        return _dense(cells, genes, matrix["indptr"], matrix["indices"], matrix["data"])


def _read_pancreas(file: Path) -> IntCounts:
    """The counts of the batch inDrop1, as Open Problems takes them."""
    import anndata  # heavy, and there only with scanpy

    with _told(file):
        table = anndata.read_h5ad(file)
        table = table[table.obs["tech"] == "inDrop1"]
        rows = table.layers["counts"].tocsr()
        cells, genes = rows.shape
        return _dense(cells, genes, rows.indptr, rows.indices, rows.data)


@contextlib.contextmanager
def _told(file: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, KeyError, ValueError, AttributeError) as error:
        hint = f"remove {file} and run again"
        raise FetchError(f"not the expected table of counts ({error})", where=str(file), hint=hint) from error


def _dense(cells: int, genes: int, pointers: Any, columns: Any, values: Any) -> IntCounts:
    """Cells x genes of a matrix stored cell by cell, without genes and cells that have no counts."""
    counts = np.zeros((cells, genes), dtype=np.int32)
    counts[np.repeat(np.arange(cells), np.diff(np.asarray(pointers))), np.asarray(columns)] = np.asarray(values)
    kept: IntCounts = counts[counts.sum(axis=1) > 0][:, counts.sum(axis=0) > 0]
    return kept


def _read_reduced(file: Path) -> IntCounts:
    import h5py  # heavy, and there only with scanpy

    with h5py.File(file) as file_:
        raw: Any = file_["raw.X"]
        cells, genes = (int(size) for size in raw.attrs["h5sparse_shape"])
        totals = np.asarray(file_["obs"]["n_counts"], dtype=np.float64)
        pointers, columns = np.asarray(raw["indptr"]), np.asarray(raw["indices"])
        values = np.asarray(raw["data"], dtype=np.float64)
    rows = np.repeat(np.arange(cells), np.diff(pointers))
    counts = np.zeros((cells, genes), dtype=np.int32)
    counts[rows, columns] = np.rint(np.expm1(values) * totals[rows] / 1e4)
    return counts
