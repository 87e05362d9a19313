"""Library that harnesses may search: its cases, and an index over them, as files that are mapped, not read.

Built once for a data set and shared by all rollouts; a query touches a few pages. Terms are character bigrams, hashed
into a fixed number of buckets so that no vocabulary has to be loaded; weights are (1 + log count) x smoothed idf, 0
for bigrams that more than half of the cases hold, and each row has length 1. A charge's centroid is the mean of its
cases' rows, of length 1 again.

Files: labels.json (all charges); texts.bin (UTF-8, end to end) and starts.npy (n + 1 offsets); case_labels.npy (index
into labels.json); idf.npy; and twice a matrix by columns, cases_* and centroids_*: *_starts.npy (one a bucket, and the
end), *_rows.npy, *_values.npy. No text of a problem is among them (splits.py).
"""

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from filelock import FileLock
from scipy import sparse

from sia_core.domain.hashing import digest_json
from tasks.lawbench.data import MEMBERS, Case, labels, store
from tasks.lawbench.settings import data_settings
from tasks.lawbench.splits import splits

BUCKETS: Final = 1 << 18
COMMON: Final = 0.5
"""Bigrams that a greater share of the cases hold say nothing."""
_FORMAT: Final = 2
"""Format of the library's files; another number builds the files anew."""

Rows = Any
"""A scipy.sparse.csr_matrix; the package has no types."""


def build() -> Path:
    """The library's directory, made if it is not there. Raises TaskError where the data cannot be read."""
    folder = _folder()
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not folder.exists():
                _write_whole(folder, splits().library, labels())
    return folder


def first_candidates(texts: Sequence[str]) -> dict[str, list[str]]:
    """The likeliest charge of each text by `nearest` case and by `centroids`: what copying the first one answers."""
    folder, charges = build(), labels()
    label = np.load(folder / "case_labels.npy", allow_pickle=False)
    rows = weigh(texts, np.load(folder / "idf.npy", allow_pickle=False))
    nearest = (rows @ _read_columns(folder, "cases", len(label)).T).toarray().argmax(axis=1)
    central = (rows @ _read_columns(folder, "centroids", len(charges)).T).toarray().argmax(axis=1)
    return {
        "nearest": [charges[label[case]] for case in nearest],
        "centroids": [charges[number] for number in central],
    }


def terms(text: str) -> npt.NDArray[np.int64]:
    """Bucket of each bigram, in order of the text; empty for a text of one character."""
    points = np.frombuffer(text.encode("utf-32-le", errors="replace"), dtype="<u4").astype(np.uint64)
    mixed = points[:-1] * np.uint64(0x9E3779B97F4A7C15) + points[1:] * np.uint64(0xC2B2AE3D27D4EB4F)
    return (mixed >> np.uint64(64 - BUCKETS.bit_length() + 1)).astype(np.int64)


def weigh(texts: Sequence[str], idf: npt.NDArray[np.float32]) -> Rows:
    """TF-IDF rows of length 1, shape (texts, BUCKETS)."""
    rows = _counts(texts)
    rows.data = 1.0 + np.log(rows.data)
    return _unit(rows @ sparse.diags(idf.astype(np.float64)))


def _counts(texts: Sequence[str]) -> Rows:
    found = [np.unique(terms(text), return_counts=True) for text in texts]
    starts = np.cumsum([0, *(len(buckets) for buckets, _ in found)])
    columns = np.concatenate([buckets for buckets, _ in found])
    values = np.concatenate([counts for _, counts in found]).astype(np.float64)
    return sparse.csr_matrix((values, columns, starts), shape=(len(texts), BUCKETS))


def _unit(rows: Rows) -> Rows:
    norm = np.sqrt(rows.multiply(rows).sum(axis=1)).A1
    return sparse.diags(1.0 / np.maximum(norm, 1e-12)) @ rows


def _write_whole(folder: Path, cases: Sequence[Case], charges: Sequence[str]) -> None:
    """Write under another name, then rename: the directory is whole or absent."""
    made = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        _write(made, cases, charges)
        made.chmod(0o755)  # Inside the sandbox the reader is another user.
        for file in made.iterdir():
            file.chmod(0o644)
        os.replace(made, folder)  # noqa: PTH105 - a directory
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _write(folder: Path, cases: Sequence[Case], charges: Sequence[str]) -> None:
    texts = [case.text for case in cases]
    counts = _counts(texts)
    seen = np.bincount(counts.indices, minlength=BUCKETS)
    idf = np.where(seen > COMMON * len(texts), 0.0, np.log((1 + len(texts)) / (1 + seen)) + 1).astype(np.float32)
    rows = weigh(texts, idf)
    label = np.array([charges.index(case.label) for case in cases], dtype=np.int16)
    member = sparse.csr_matrix((np.ones(len(label)), (label, np.arange(len(label)))), (len(charges), len(label)))
    encoded = [text.encode() for text in texts]
    (folder / "labels.json").write_text(json.dumps(charges, ensure_ascii=False))
    (folder / "texts.bin").write_bytes(b"".join(encoded))
    np.save(folder / "starts.npy", np.cumsum([0, *map(len, encoded)]).astype(np.int64))
    np.save(folder / "case_labels.npy", label)
    np.save(folder / "idf.npy", idf)
    _write_columns(folder, "cases", rows)
    _write_columns(folder, "centroids", _unit((member @ rows).tocsr()))


def _write_columns(folder: Path, name: str, rows: Rows) -> None:
    columns = rows.tocsc()
    columns.sort_indices()
    np.save(folder / f"{name}_starts.npy", columns.indptr.astype(np.int32))
    np.save(folder / f"{name}_rows.npy", columns.indices.astype(np.int16))
    np.save(folder / f"{name}_values.npy", columns.data.astype(np.float32))


def _read_columns(folder: Path, name: str, rows: int) -> Any:
    values, at, starts = (
        np.load(folder / f"{name}_{part}.npy", allow_pickle=False) for part in ("values", "rows", "starts")
    )
    return sparse.csc_matrix((values.astype(np.float64), at, starts), shape=(rows, BUCKETS))


@cache
def _folder() -> Path:
    pinned = data_settings()
    parts = [_FORMAT, BUCKETS, *(pinned[f"{name}_sha256"] for name in MEMBERS)]
    parts += [pinned[name] for name in ("seed", "train", "gate")]
    return store() / f"library-{digest_json(parts)[:16]}"
