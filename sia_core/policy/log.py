"""A log of replies, so that no reply is paid for twice, and all can be replayed exactly.

Each reply is appended as one JSON line; the first line identifies the policy. An incomplete last line is ignored
and overwritten. If a reply cannot be written, no further one is requested.
"""

import json
import os
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from sia_core.domain.candidate import Adapter
from sia_core.domain.errors import PolicyError, RecordError
from sia_core.domain.hashing import canonical_json
from sia_core.domain.json_data import read, write
from sia_core.host.disk import cannot_write
from sia_core.policy.dialect import Dialect
from sia_core.policy.protocol import Completion, Policy, Request

FORMAT = 1


class LoggedPolicy:
    """A policy whose replies are kept in a file. Thread-safe; one process at a time."""

    def __init__(self, policy: Policy, path: Path, about: Mapping[str, Any] | None = None) -> None:
        """Keep replies in `path`; `about` is JSON data to add to the first line of a new log."""
        self._policy = policy
        self.spec, self.digest = policy.spec, policy.digest
        self.trainable, self.concurrency = policy.trainable, policy.concurrency
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        header = {"format": FORMAT, "policy": policy.spec, "digest": policy.digest, "trainable": policy.trainable}
        header |= about or {}
        known: Mapping[str, Completion] = {}
        end = 0
        if path.exists() and path.stat().st_size:
            found, known, end = read_log(path)
            if found["digest"] != policy.digest:
                what = f"holds replies of {found['policy']}, not of {policy.spec}"
                raise PolicyError(what, where=str(path), hint="use another file")
        self._path = path
        self._file = _open(path)
        self._end = end
        self._failure: RecordError | None = None
        if not end:
            self._append(header)
        self._known: dict[str, Future[Completion]] = {key: _done(completion) for key, completion in known.items()}

    def sample(self, request: Request) -> Completion:
        """Return the logged reply to this request, or log the policy's reply and return it.

        Raises:
            RecordError: the disk is full, so replies would be paid for and lost.
        """
        with self._lock:
            future = self._known.get(request.key)
            mine = future is None
            if future is None:
                self._known[request.key] = future = Future()
        if not mine:
            return future.result()
        try:
            if self._failure is not None:
                raise self._failure
            completion = self._policy.sample(request)
            with self._lock:
                self._append({"request": request.key, "completion": _data(completion)})
        except BaseException as error:
            with self._lock:
                del self._known[request.key]
            future.set_exception(error)
            raise
        future.set_result(completion)
        return completion

    @property
    def dialect(self) -> Dialect | None:
        """Deviations of the policy's server; None for a policy without a server."""
        return getattr(self._policy, "dialect", None)

    def probe(self, adapter: Adapter | None = None) -> tuple[float, ...]:
        """Probe the policy, without a log of the result."""
        return self._policy.probe(adapter)

    def _append(self, entry: Mapping[str, Any]) -> None:
        data = memoryview(canonical_json(entry) + b"\n")
        at = self._end
        try:
            while data:
                done = os.pwrite(self._file.fileno(), data, at)
                data, at = data[done:], at + done
        except OSError as error:
            with suppress(OSError):
                self._file.truncate(self._end)
            self._failure = cannot_write(error, self._path)
            raise self._failure from None
        self._end = at


class ReplayPolicy:
    """`replay:FILE`: answers from the log only, under the digest of the logged policy."""

    concurrency = 64

    def __init__(self, spec: str, path: Path) -> None:
        header, self._known, _ = read_log(path)
        self.spec = spec
        self.digest: str = header["digest"]
        self.trainable: bool = header["trainable"]
        self._path = path

    def sample(self, request: Request) -> Completion:
        """Return the logged reply to this request."""
        completion = self._known.get(request.key)
        if completion is None:
            raise PolicyError(
                f"no reply to request {request.key[:12]} among {len(self._known)}",
                where=str(self._path),
                hint="replay with the seed, task, harness and settings of the run that wrote the log",
            )
        return completion

    def probe(self, adapter: Adapter | None = None) -> tuple[float, ...]:
        """Return an empty probe."""
        return ()


def read_log(path: Path) -> tuple[dict[str, Any], dict[str, Completion], int]:
    """Read the header, the replies by request key, and the end of the last complete line.

    Raises:
        PolicyError: not a log of replies.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise PolicyError(f"cannot be read: {error.strerror}", where=str(path)) from error
    end = data.rfind(b"\n") + 1
    try:
        header, *entries = (json.loads(line) for line in data[:end].splitlines())
        if header["format"] != FORMAT:
            raise ValueError(f"format {header['format']}")
        known = {entry["request"]: read(Completion, entry["completion"]) for entry in entries}
    except (ValueError, KeyError, TypeError) as error:
        what = f"not a log of replies: {type(error).__name__}: {error}"
        raise PolicyError(what, where=str(path), hint="replay:FILE needs the replies.jsonl of a run") from error
    return header, known, end


def _data(completion: Completion) -> dict[str, Any]:
    """Return a reply as JSON data, without thinking where there is none: logs of replies without it stay equal."""
    data: dict[str, Any] = write(completion)
    return data if data["thinking"] else {name: value for name, value in data.items() if name != "thinking"}


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("r+b" if path.exists() else "w+b", buffering=0)
    except OSError as error:
        raise cannot_write(error, path) from error


def _done(completion: Completion) -> Future[Completion]:
    future: Future[Completion] = Future()
    future.set_result(completion)
    return future
