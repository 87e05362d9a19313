"""Store rollouts as Parquet: flat columns to query, and the whole record to read back."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from sia_core.domain import json_data
from sia_core.domain.rollout import Rollout

_BATCH = 64
"""Records held in memory at once when only some are read."""


@dataclass(frozen=True)
class Row:
    """A rollout without its record: the flat columns."""

    key: str
    problem: str
    seed: int
    score: float | None
    """None when unscored."""
    failure: str | None
    """Kind of the failure."""
    tokens: int
    seconds: float


def write(path: Path, rollouts: Sequence[Rollout]) -> None:
    """Write records in the order of their unit keys."""
    ordered = sorted(rollouts, key=lambda rollout: rollout.unit.key)
    columns = {
        "key": [rollout.unit.key for rollout in ordered],
        "split": [rollout.unit.split for rollout in ordered],
        "problem": [rollout.unit.problem for rollout in ordered],
        "seed": [rollout.unit.seed for rollout in ordered],
        "harness": [rollout.unit.harness for rollout in ordered],
        "adapter": pa.array([rollout.unit.adapter for rollout in ordered], pa.string()),
        "score": pa.array([rollout.score for rollout in ordered], pa.float64()),
        "failure": pa.array([rollout.failure and rollout.failure.kind for rollout in ordered], pa.string()),
        "tokens": [rollout.tokens for rollout in ordered],
        "seconds": [rollout.seconds for rollout in ordered],
        "record": [json_data.dumps(rollout) for rollout in ordered],
    }
    pq.write_table(pa.table(columns), path, compression="zstd")


def read(data: bytes) -> list[Rollout]:
    """Read the records of a file made by `write`."""
    column = pq.read_table(pa.BufferReader(data), columns=["record"]).column("record")
    return [json_data.loads(Rollout, text) for text in column.to_pylist()]


def read_rows(data: bytes) -> list[Row]:
    """Read the flat columns alone, which is cheap for any number of rollouts."""
    columns = [one.name for one in fields(Row)]
    table = pq.read_table(pa.BufferReader(data), columns=columns)
    return [Row(**row) for row in table.to_pylist()]


def read_some(data: bytes, keys: Collection[str]) -> list[Rollout]:
    """Read the records of some units, in the file's order, without holding all records at once."""
    found: list[Rollout] = []
    for batch in pq.ParquetFile(pa.BufferReader(data)).iter_batches(batch_size=_BATCH, columns=["key", "record"]):
        for at, key in enumerate(batch.column("key").to_pylist()):
            if key in keys:
                found.append(json_data.loads(Rollout, batch.column("record")[at].as_py()))
    return found
