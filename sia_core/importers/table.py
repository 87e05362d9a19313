"""Read tables of rows with ids, from CSV or a JSON list of objects, and deal their rows out to problems.

An external task has one test set. The rows are dealt out by the digests of their ids, so that the parts share no row,
do not depend on the order of the file, and stay the same if rows are added elsewhere.
"""

import csv
import io
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sia_core.domain.errors import TaskError
from sia_core.domain.hashing import digest_json

LEAST_ROWS = 2
"""Minimum number of rows of one problem."""


@dataclass(frozen=True)
class Table:
    """Rows of text by column."""

    columns: tuple[str, ...]
    rows: tuple[Mapping[str, Any], ...]
    json: bool = False

    @classmethod
    def read(cls, name: str, data: bytes) -> "Table | None":
        """Parse a file's bytes as a table, None if it is not one."""
        try:
            return cls._json(data) if name.endswith(".json") else cls._csv(data) if name.endswith(".csv") else None
        except (ValueError, csv.Error):
            return None

    @classmethod
    def _csv(cls, data: bytes) -> "Table | None":
        reader = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""))
        rows = tuple(reader)
        return cls(tuple(reader.fieldnames or ()), rows) if rows and reader.fieldnames else None

    @classmethod
    def _json(cls, data: bytes) -> "Table | None":
        rows = json.loads(data)
        if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
            return None
        return cls(tuple(rows[0]), tuple(rows), json=True)

    def ids(self, column: str) -> list[str]:
        """Return the ids, in the order of the rows."""
        return [str(row.get(column)) for row in self.rows]

    def only(self, column: str, ids: Collection[str]) -> "Table":
        """Select the rows with these ids."""
        rows = tuple(row for row in self.rows if str(row.get(column)) in ids)
        return Table(self.columns, rows, self.json)

    def select(self, columns: Sequence[str]) -> "Table":
        """Select some columns, in this order."""
        return Table(tuple(columns), tuple({name: row[name] for name in columns} for row in self.rows), self.json)

    def write(self) -> bytes:
        """Return the table as bytes, in the format that the table was read from."""
        if self.json:
            return json.dumps(list(self.rows), ensure_ascii=False, indent=1).encode()
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self.columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return text.getvalue().encode()


def read_file(file: Path) -> Table | None:
    """Read the table in a file, None if there is none."""
    return Table.read(file.name, file.read_bytes())


def deal(ids: Sequence[str], parts: int, seed: str) -> list[list[str]]:
    """Deal ids out to `parts` groups of nearly equal size.

    Raises:
        TaskError: an id repeats, or there are too few ids.
    """
    if len(set(ids)) < len(ids):
        raise TaskError("ids of the test set repeat", hint="name a column that identifies rows: --id COLUMN")
    if len(ids) < parts * LEAST_ROWS:
        raise TaskError(
            f"{len(ids)} rows cannot make {parts} problems",
            hint=f"each needs at least {LEAST_ROWS} rows: import with fewer --problems",
        )
    order = sorted(ids, key=lambda one: digest_json([seed, one]))
    return [order[start::parts] for start in range(parts)]
