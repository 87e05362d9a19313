"""Retry calls of MLflow: an outage of its server costs time, never data.

`patient` wraps MLflow's client. A call that fails for the server's reasons (refused, reset, timed out, HTTP 408, 429 or
5xx, a locked database) is retried with growing pauses, for SIA_MLFLOW_PATIENCE_S seconds at most. The user reads a line
when a wait begins and when the wait ends. All other errors are raised unchanged.

- An error may come after the commit. Calls that set, put or end something have the same effect when they are repeated,
  because the record fixes timestamps. Calls that create something carry a fresh key, the tag `sia.request`, and are
  repeated only if no search finds the key. Deleting something that is gone succeeds.
- MLflow's own retries are switched off: MLflow knows no keys, and is silent for minutes.
- A wait sleeps in the caller's thread, so that a signal ends the wait immediately. Calls within `in_haste`, such as
  those of a process that ends, do not wait.
- Traces are not retried: MLflow sends them from a thread of its own and drops them when the server is down.
"""

import logging
import os
import secrets
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeVar, cast

from mlflow.entities import LoggedModel, Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode
from mlflow.tracking import MlflowClient

from sia_core.domain.errors import RecordError, ServiceError, SiaError, UsageError
from sia_core.host.external import masked
from sia_core.host.retrying import Schedule
from sia_core.record.fault import fault
from sia_core.record.tags import Tag

VARIABLE: Final = "SIA_MLFLOW_PATIENCE_S"
REQUEST: Final = Tag.REQUEST
"""Tag with a key that is fresh for each thing asked for."""
_TIMEOUT: Final = "MLFLOW_HTTP_REQUEST_TIMEOUT"
_RETRIES: Final = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
_ANNOUNCE_AFTER_S: Final = 2.0
"""A wait after a single attempt shorter than this is not announced."""
_TOTAL_S: Final = 900.0
SCHEDULE: Final = Schedule(longest_s=15.0, jitter=0.5, total_s=_TOTAL_S)
_UNTRIED: Final = ("start_trace", "start_span", "end_span", "end_trace")
_LOGGER = logging.getLogger("mlflow.store.db.utils")
"""Prints a traceback of each error of a database, which MLflow raises as well."""
_HASTY: ContextVar[bool] = ContextVar("hasty", default=False)

Found = TypeVar("Found")


def schedule_of_environment() -> Schedule:
    """Return how long calls of MLflow are retried: SIA_MLFLOW_PATIENCE_S seconds; 15 min where it is not set.

    Raises:
        UsageError: the variable is no number of seconds.
    """
    text = os.environ.get(VARIABLE, "")
    try:
        total = float(text) if text else _TOTAL_S
    except ValueError:
        total = -1.0
    if not 0 <= total < float("inf"):
        raise UsageError(f"{text!r} is no number of seconds", where=VARIABLE, hint=f"such as {_TOTAL_S:g}")
    return SCHEDULE if total == _TOTAL_S else replace(SCHEDULE, total_s=total)


def say_on_stderr(text: str) -> None:
    """Where nobody else listens."""
    print(f"sia: {text}", file=sys.stderr, flush=True)


@dataclass
class Waiting:
    """Retries calls of one store until it answers."""

    uri: str
    schedule: Schedule = field(default_factory=schedule_of_environment)
    say: Callable[[str], None] = say_on_stderr
    """Function that is called with a line when a wait begins and when it ends."""

    def __call__(self, call: Callable[[], Found], made: Callable[[], Found | None] = lambda: None) -> Found:
        """Return the result of a call of MLflow.

        Args:
            call: makes one request.
            made: finds what an earlier attempt has made without its answer coming through; called before each retry.

        Raises:
            ServiceError: the server did not answer within the schedule.
            RecordError: a SQLite file was locked that long.
            Exception: any error that is not the server's fault; within `in_haste`, every error.
        """
        clock, began, tries, announced = self.schedule.clock, self.schedule.clock(), 0, False

        def attempt() -> Found:
            nonlocal tries
            tries += 1
            found = made() if tries > 1 else None
            return call() if found is None else found

        def announce(number: int, error: Exception) -> None:
            nonlocal announced
            if not announced and (number > 1 or clock() - began >= _ANNOUNCE_AFTER_S):
                announced = True
                most = _length(self.schedule.total_s)
                self.say(f"MLflow at {masked(self.uri)} does not answer ({fault(error)}); waiting, up to {most}")

        try:
            found = self.schedule.run(
                attempt, lambda error: not _HASTY.get() and fault(error) is not None, on_pause=announce
            )
        except Exception as error:
            why = fault(error)
            if why is None or _HASTY.get():
                raise
            raise self._gave_up(f"did not answer for {_length(clock() - began)} ({why})") from error
        if announced:
            self.say(f"MLflow answers again, after {_length(clock() - began)}; continuing")
        return found

    def _gave_up(self, what: str) -> SiaError:
        kind = RecordError if self.uri.startswith("sqlite:") else ServiceError
        hint = f"see that it runs; to wait longer than {self.schedule.total_s:g} s set {VARIABLE}"
        return kind(f"MLflow {what}", where=masked(self.uri), hint=hint)


@contextmanager
def in_haste(timeout_s: int | None = None) -> Iterator[None]:
    """Wait for nothing within, in this thread.

    Args:
        timeout_s: for a server that hangs, of the whole process: only on its way out.
    """
    token, before = _HASTY.set(True), os.environ.get(_TIMEOUT)
    try:
        if timeout_s is not None:
            os.environ[_TIMEOUT] = str(timeout_s)  # MLflow reads it for each request.
        yield
    finally:
        _HASTY.reset(token)
        if timeout_s is not None:
            os.environ.pop(_TIMEOUT)
            os.environ.update({_TIMEOUT: before} if before is not None else {})


def bound_requests() -> None:
    """Let each request be one try, and a silent one end: how often and how long is ours to say."""
    os.environ[_RETRIES] = "0"
    os.environ.setdefault(_TIMEOUT, "60")


def _length(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"


class _Patient:
    """MLflow's client, but for what is said above."""

    def __init__(self, client: MlflowClient, waiting: Waiting) -> None:
        self._client, self._waiting = client, waiting

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        if not callable(found) or name in _UNTRIED:
            return found
        if name.startswith("delete_"):
            return lambda *words, **more: self._delete(lambda: found(*words, **more))
        return lambda *words, **more: self._waiting(lambda: found(*words, **more))

    def create_run(self, experiment_id: str, *, run_name: str, tags: Mapping[str, str]) -> Run:
        key, client = secrets.token_hex(8), self._client
        made: Run = self._waiting(
            lambda: client.create_run(experiment_id, run_name=run_name, tags={**tags, REQUEST: key}),
            lambda: _one(client.search_runs([experiment_id], f"tags.`{REQUEST}` = '{key}'")),
        )
        return made

    def create_logged_model(self, experiment_id: str, *, tags: Mapping[str, str], **more: Any) -> LoggedModel:
        key, client = secrets.token_hex(8), self._client
        made: LoggedModel = self._waiting(
            lambda: client.create_logged_model(experiment_id, tags={**tags, REQUEST: key}, **more),
            lambda: _one(client.search_logged_models([experiment_id], f"tags.`{REQUEST}` = '{key}'")),
        )
        return made

    def create_model_version(self, name: str, source: str, *, tags: Mapping[str, str], **more: Any) -> ModelVersion:
        key, client = secrets.token_hex(8), self._client
        made: ModelVersion = self._waiting(
            lambda: client.create_model_version(name, source, tags={**tags, REQUEST: key}, **more),
            lambda: _one(client.search_model_versions(f"name = '{name}' AND tags.`{REQUEST}` = '{key}'")),
        )
        return made

    def _delete(self, call: Callable[[], Any]) -> Any:
        """Run a deletion with retries; at a retry, a missing object counts as deleted by an earlier try."""
        tries = 0

        def once() -> Any:
            nonlocal tries
            tries += 1
            try:
                return call()
            except MlflowException as error:
                if tries == 1 or error.error_code != ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
                    raise
                return None

        return self._waiting(once)


def patient(client: MlflowClient, waiting: Waiting) -> MlflowClient:
    """The client, with calls that wait."""
    _LOGGER.addFilter(_never)  # Twice is once.
    return cast("MlflowClient", _Patient(client, waiting))


def _never(_: logging.LogRecord) -> bool:
    return False


def _one(found: Any) -> Any:
    return next(iter(found), None)


def without_late(runs: Iterable[Run], tag: str) -> list[Run]:
    """One run for each value of a tag, in the order of the first ones.

    A server that hangs may create a run long after the request was given up and made again: such a run stays bare.
    """
    found: dict[str, Run] = {}
    for run in runs:
        value = run.data.tags[tag]
        found[value] = max(found.get(value, run), run, key=_made_of)
    return list(found.values())


def _made_of(run: Run) -> tuple[int, int, str]:
    phases = sum(key.startswith(f"{Tag.PHASE}.") for key in run.data.tags)
    return phases, len(run.data.params) + len(run.data.metrics), str(run.info.run_id)
