"""Show progress in the Prefect UI: an artifact with the current step, and lines in the flow run's log.

A run does not depend on this display: an update that Prefect does not accept in time is dropped.
"""

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast
from uuid import UUID

import httpx
from prefect import get_run_logger
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.exceptions import PrefectHTTPStatusError

from sia_core.domain.errors import ServiceError
from sia_core.host.external import masked
from sia_core.host.progress import Reporter, Wait
from sia_core.loop.session import reporter

EVERY_S = 3.0
"""Seconds between updates, each of which is a request of some 20 ms."""


class Shown:
    """A Reporter that reports to Prefect and to another reporter."""

    def __init__(self, run: str, also: Reporter) -> None:
        self.run, self.also = run, also
        self._artifact: UUID | None = None
        self._next = 0.0
        self._asked: tuple[str, int] | None = None
        """Label and turn of the wait that is shown."""

    def progress(self, label: str, done: int, total: int) -> None:
        """Implement `Reporter.progress`."""
        self.also.progress(label, done, total)
        if time.monotonic() < self._next:
            return
        self._show(f"{self.run}, {label}: {done} of {total}", 100.0 * done / max(total, 1))

    def _show(self, text: str, share: float) -> None:
        try:
            if self._artifact is None:
                made = create_progress_artifact(share, key=artifact_key(self.run, "now"), description=text)
                self._artifact = cast("UUID", made)
            else:
                update_progress_artifact(self._artifact, share, description=text)
        except Exception as error:  # noqa: BLE001  (the client raises many kinds while the server is away)
            get_run_logger().debug("progress was not shown: %r", error)
        self._next = time.monotonic() + EVERY_S

    def waiting(self, wait: Wait | None) -> None:
        """Implement `Reporter.waiting`: show a turn when it begins, and then every EVERY_S."""
        self.also.waiting(wait)
        if wait is None:
            return
        asked = (wait.label, wait.turn)
        if asked != self._asked or time.monotonic() >= self._next:
            self._asked = asked
            self._show(f"{self.run}, {wait.describe(time.time())}", 0.0)

    def say(self, text: str) -> None:
        """Implement `Reporter.say`."""
        self.also.say(text)
        get_run_logger().info("%s", text)


class Share:
    """A progress artifact."""

    def __init__(self, about: str) -> None:
        self._about = about
        self._artifact: UUID | None = None
        self.reach(0.0)

    def reach(self, share: float) -> None:
        """Show this percentage."""
        show_if_reachable(lambda: self._show(share))

    def _show(self, share: float) -> None:
        if self._artifact is None:
            self._artifact = cast("UUID", create_progress_artifact(share, description=self._about))
        else:
            update_progress_artifact(self._artifact, share)


@contextmanager
def shown(run: str) -> Iterator[None]:
    """Show the progress of the work within, in a flow."""
    before = reporter.get()
    if isinstance(before, Shown) and before.run == run:
        yield
        return
    token = reporter.set(Shown(run, before.also if isinstance(before, Shown) else before))
    try:
        yield
    finally:
        reporter.reset(token)


def artifact_key(run: str, what: str) -> str:
    """Make a key for Prefect, in lower case, digits and dashes; one per run, so that the UI shows its history."""
    return re.sub(r"[^a-z0-9]+", "-", f"{run}-{what}".lower()).strip("-")


AWAY = (httpx.TransportError, PrefectHTTPStatusError)


def show_if_reachable(make: Callable[[], object]) -> None:
    """Show something in Prefect, if Prefect can be reached."""
    try:
        make()
    except AWAY as error:
        get_run_logger().warning("this is not shown in Prefect: %r", error)


@contextmanager
def outage_explained() -> Iterator[None]:
    """Report an outage of Prefect in a line instead of a traceback.

    Raises:
        ServiceError: Prefect did not answer, or answered with an error.
    """
    try:
        yield
    except AWAY as error:
        answered = isinstance(error, PrefectHTTPStatusError)
        what = "Prefect answers with an error" if answered else "Prefect does not answer"
        why = " ".join(str(error).split())[:200] or type(error).__name__
        where = masked(os.environ.get("PREFECT_API_URL", ""))
        raise ServiceError(f"{what}: {why}", where=where, hint="check that it runs") from error
