"""Report the current step of a run as a tag of its MLflow run, for `sia watch` on any machine.

A thread of the driver writes the tag every PERIOD seconds. A run that MLflow calls running, but whose tag has grown
old, was killed. The tag is only for display, so an update that fails is skipped.
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
"""Seconds without an update after which a run counts as killed."""


@dataclass(frozen=True)
class Progress:
    """The step that a run has reached."""

    label: str
    done: int
    total: int
    at: float
    """Seconds since the epoch at which the step was written."""
    wait: Wait | None = None
    """The reply that the run waits for, if any."""


def read_progress(tags: dict[str, str]) -> Progress | None:
    """Read the progress from a run's tags; None where no progress was ever written."""
    text = tags.get(Tag.PROGRESS)
    return None if text is None else loads(Progress, text)


class Beacon:
    """A Reporter that forwards each call and keeps the latest step in the record. Use as a context manager."""

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
            # An outage of the store must not end the run.
            with contextlib.suppress(Exception), in_haste():
                self._run.set_tags({Tag.PROGRESS: dumps(now)})
            if self._ended.wait(self._period):
                return
