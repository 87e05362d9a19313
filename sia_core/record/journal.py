"""Keep finished rollouts on local disk until they are part of a phase.

A run has one SQLite file, which the driver writes as results come. The first terminal record of a unit stays, so a
unit that ran twice is counted once. With the journal a killed run is cheap to resume, but MLflow is what moves
between machines. A row is written whole or not at all: on a full disk the run ends with an error, and resumes from
the rows already written.
"""

import contextlib
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import astuple, fields
from pathlib import Path
from typing import Self

from sia_core.domain import json_data
from sia_core.domain.budget import Role
from sia_core.domain.errors import RecordError
from sia_core.domain.rollout import Rollout
from sia_core.domain.usage import Usage
from sia_core.host.disk import cannot_write, is_full

_COLUMNS = ", ".join(f"{one.name} REAL NOT NULL" for one in fields(Usage))
_SPENDING = f"CREATE TABLE IF NOT EXISTS spending (key TEXT, role TEXT, {_COLUMNS}, PRIMARY KEY (key, role))"
_VALUES = f"INTO spending VALUES (?, ?, {', '.join('?' for _ in fields(Usage))})"
_ADD = f"INSERT OR IGNORE {_VALUES}"
_GREATEST = ", ".join(f"{one.name} = max({one.name}, excluded.{one.name})" for one in fields(Usage))
_RAISE = f"INSERT {_VALUES} ON CONFLICT DO UPDATE SET {_GREATEST}"


class Journal:
    """Terminal records by unit key. Use as a context manager; one thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(path, isolation_level=None)
            # WAL: a committed row survives kill -9 without an fsync for each.
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=NORMAL")
            self._database.execute("CREATE TABLE IF NOT EXISTS rollouts (key TEXT PRIMARY KEY, record TEXT NOT NULL)")
            self._database.execute(_SPENDING)
        except (OSError, sqlite3.Error) as error:
            if is_full(error):
                raise cannot_write(error, path) from error
            raise RecordError(
                f"cannot be opened: {error}", where=str(path), hint="make it writable, or set SIA_HOME elsewhere"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def put(self, rollout: Rollout, spent: Mapping[Role, Usage] | None = None) -> bool:
        """Keep a terminal record and what it cost; a second one of the same unit changes nothing, and is False.

        Raises:
            RecordError: the disk is full or failing.
        """
        row = rollout.unit.key, json_data.dumps(rollout)
        try:
            self._database.execute("BEGIN")
            new = self._database.execute("INSERT OR IGNORE INTO rollouts VALUES (?, ?)", row).rowcount > 0
            for role, amounts in (spent or {}).items():
                self._database.execute(_ADD, (rollout.unit.key, role, *astuple(amounts)))
            self._database.execute("COMMIT")
        except sqlite3.Error as error:
            with contextlib.suppress(sqlite3.Error):
                self._database.execute("ROLLBACK")
            raise cannot_write(error, self._path) from error
        return new

    def drop(self, keys: Iterable[str]) -> None:
        """Forget the records of these units, but not what they cost, so that they run again.

        Raises:
            RecordError: the disk is full or failing.
        """
        try:
            self._database.executemany("DELETE FROM rollouts WHERE key = ?", [(key,) for key in keys])
        except sqlite3.Error as error:
            raise cannot_write(error, self._path) from error

    def spend(self, key: str, role: str, amounts: Usage) -> None:
        """Note what something other than a rollout has cost; of a key the greatest amounts count.

        Raises:
            RecordError: the disk is full or failing.
        """
        try:
            self._database.execute(_RAISE, (key, role, *astuple(amounts)))
        except sqlite3.Error as error:
            raise cannot_write(error, self._path) from error

    def spent(self) -> dict[str, Usage]:
        """Sum up what was spent, by role."""
        sums = ", ".join(f"sum({one.name})" for one in fields(Usage))
        rows = self._database.execute(f"SELECT role, {sums} FROM spending GROUP BY role")
        return {role: Usage(*amounts) for role, *amounts in rows}

    def get(self, keys: Iterable[str]) -> dict[str, Rollout]:
        """Return the stored records among `keys`."""
        found = {}
        for key in keys:
            row = self._database.execute("SELECT record FROM rollouts WHERE key = ?", (key,)).fetchone()
            if row is not None:
                found[key] = json_data.loads(Rollout, row[0])
        return found

    def __len__(self) -> int:
        (count,) = self._database.execute("SELECT count(*) FROM rollouts").fetchone()
        return int(count)
