"""The log of one decision of a command: trials and rounds, so that a resumed run repeats none that has ended.

Each event is a JSON line, written before the event counts. An incomplete last line is overwritten.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sia_core.host.disk import cannot_write


class Log:
    """Events in the order in which they happened."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.events: list[dict[str, Any]] = []
        self._end = 0
        if path.exists():
            self._read(path.read_bytes())

    def append(self, event: Mapping[str, Any]) -> None:
        """Keep an event.

        Raises:
            RecordError: the disk is full.
        """
        line = json.dumps(event).encode() + b"\n"
        try:
            with self._path.open("r+b" if self._path.exists() else "wb") as file:
                file.seek(self._end)
                file.truncate()
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise cannot_write(error, self._path) from error
        self._end += len(line)
        self.events.append(dict(event))

    def _read(self, data: bytes) -> None:
        for line in data.splitlines(keepends=True):
            try:
                event = json.loads(line)
            except ValueError:
                return
            if not line.endswith(b"\n"):
                return
            self.events.append(event)
            self._end += len(line)
