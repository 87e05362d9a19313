"""Looks cases up in the task's library. The index is mapped into memory; a query reads its own bigrams' columns."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

BUCKETS = 1 << 18

Scores = npt.NDArray[np.float64]


class Library:
    """Labelled cases, and ways to rank charges for a text."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.labels: list[str] = json.loads((folder / "labels.json").read_text())
        self._idf = self._map("idf")
        self.case_labels = self._map("case_labels")

    def rank(self, text: str, how: str) -> list[int]:
        """All charges that the library has cases of, the likeliest first; indices into `labels`.

        Args:
            how: by the `nearest` case of each, or by their `centroids`.
        """
        weights = self._weights(text)
        if how == "centroids":
            known = set(self.case_labels.tolist())
            order = np.argsort(-self._score(weights, "centroids"), kind="stable").tolist()
            return [label for label in order if label in known]
        cases = np.argsort(-self._score(weights, "cases"), kind="stable")
        return list(dict.fromkeys(self.case_labels[cases].tolist()))

    def cases_near(self, text: str, number: int) -> list[int]:
        """The `number` cases most like `text`, the likest first."""
        cases: list[int] = np.argsort(-self._score(self._weights(text), "cases"), kind="stable")[:number].tolist()
        return cases

    def nearest(self, text: str, label: int) -> str:
        """Text of the case of this charge that is most like `text`."""
        scores = np.where(self.case_labels == label, self._score(self._weights(text), "cases"), -1.0)
        return self.text(int(scores.argmax()))

    def text(self, case: int) -> str:
        """A case's text."""
        starts = self._map("starts")
        with (self._folder / "texts.bin").open("rb") as file:
            file.seek(int(starts[case]))
            return file.read(int(starts[case + 1] - starts[case])).decode()

    def _weights(self, text: str) -> tuple[npt.NDArray[np.int64], Scores]:
        points = np.frombuffer(text.encode("utf-32-le", errors="replace"), dtype="<u4").astype(np.uint64)
        mixed = points[:-1] * np.uint64(0x9E3779B97F4A7C15) + points[1:] * np.uint64(0xC2B2AE3D27D4EB4F)
        buckets = (mixed >> np.uint64(65 - BUCKETS.bit_length())).astype(np.int64)
        buckets, counts = np.unique(buckets, return_counts=True)
        weights = (1.0 + np.log(counts)) * self._idf[buckets].astype(np.float64)
        return buckets, weights / max(float(np.linalg.norm(weights)), 1e-12)

    def _score(self, query: tuple[npt.NDArray[np.int64], Scores], matrix: str) -> Scores:
        """Cosine with each row."""
        starts, rows, values = (self._map(f"{matrix}_{part}") for part in ("starts", "rows", "values"))
        buckets, weights = query
        first, size = starts[buckets].astype(np.int64), (starts[buckets + 1] - starts[buckets]).astype(np.int64)
        at = np.repeat(first - np.concatenate([[0], np.cumsum(size)[:-1]]), size) + np.arange(size.sum())
        products = np.repeat(weights, size) * values[at]
        length = len(self.case_labels) if matrix == "cases" else len(self.labels)
        return np.bincount(rows[at], weights=products, minlength=length)

    def _map(self, name: str) -> Any:
        return np.load(self._folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
