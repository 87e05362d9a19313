"""Where a run is now, as a tag of its MLflow run: what `sia watch` reads from any machine.

The tag is written every PERIOD seconds by a thread of the driver while the run goes on. A run whose tag has grown old
while MLflow still calls it running was killed. Nothing rests on it: what cannot be written is left out.
"""

import contextlib
import threading
import time
from dataclasses import dataclass
from typing import Self

from sia_core.domain.json_data import dumps, loads
from sia_core.host.progress import Reporter, Wait
from sia_core.record.patience import in_haste
from sia_core.record.store import RunRecord
from sia_core.record.tags import Tag

PERIOD = 5.0
SILENCE = 6 * PERIOD
"""Seconds without a word after which a run is no longer taken to be going on."""


@dataclass(frozen=True)
class Progress:
    """The step a run was at."""

    label: str
    done: int
    total: int
    at: float
    """Seconds since the epoch at which this was written."""
    wait: Wait | None = None
    """The reply that was waited for; None where none was."""


def read_progress(tags: dict[str, str]) -> Progress | None:
    """Read the progress from a run's tags; None where no progress was ever written."""
    text = tags.get(Tag.PROGRESS)
    return None if text is None else loads(Progress, text)


class Beacon:
    """A Reporter that hands on what it hears, and leaves the latest step in the record. Use as a context manager."""

    def __init__(self, run: RunRecord, listener: Reporter, period: float = PERIOD) -> None:
        self._run, self._listener, self._period = run, listener, period
        self._latest = ("starting", 0, 0)
        self._wait: Wait | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._shine, name="beacon", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(self._period)

    def progress(self, label: str, done: int, total: int) -> None:
        """Implement `Reporter.progress`."""
        self._latest = (label, done, total)
        self._listener.progress(label, done, total)

    def say(self, text: str) -> None:
        """Implement `Reporter.say`."""
        self._listener.say(text)

    def waiting(self, wait: Wait | None) -> None:
        """Implement `Reporter.waiting`."""
        self._wait = wait
        self._listener.waiting(wait)

    def _shine(self) -> None:
        while True:
            label, done, total = self._latest
            now = Progress(label[:200], done, total, round(time.time(), 1), self._wait)
            # A store that is down must not end the run that waits for it.
            with contextlib.suppress(Exception), in_haste():
                self._run.set_tags({Tag.PROGRESS: dumps(now)})
            if self._ended.wait(self._period):
                return
