"""Lease a run in the record, so that no two processes on any machines write to one run.

Each run and each comparison has a small MLflow run beside it (`lease_id`). A claim is the parameter `holder.N` of that
MLflow run. A parameter can be written only once, so when two processes claim N, the store refuses one of them. N is the
fencing token: only the holder of the greatest one may write.

- A holder beats: every BEAT_S it writes the time into the tag `sia.holder.N` and looks for a claim of N + 1.
- A lease is free when it was given back, when its process is dead (same machine), or when no beat came for TTL_S (other
  machines, whose clocks may differ, so a claimant watches for at least 25 s).
- A holder that finds a greater token has lost the lease, and all its further writes are refused: the record calls
  `Lease.check` before each. A holder that could not beat for TTL_S asks the record before its next write.
- While the store is down, no process can beat or claim. A waiting writer then checks whether another process, one that
  could reach the store, took the run over; if not, the writer continues.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from secrets import token_hex
from typing import Any, Protocol

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from sia_core.domain.errors import HeldError
from sia_core.host.processes import Process
from sia_core.record.patience import in_haste
from sia_core.record.stored import Store
from sia_core.record.tags import Tag

BEAT_S = 10.0
TTL_S = 60.0
LOOK_S = 25.0
LEAVE_S = 5
"""Wait limit of the last request when a process leaves because of an error or a signal."""
_PARAM = "holder."
_TAG = f"{Tag.HOLDER}."
_BACK = "given back"


@dataclass(frozen=True)
class Claim:
    """A claim of one process on a run."""

    token: int
    process: Process
    since: float
    """Seconds since the epoch, by that machine's clock."""
    nonce: str

    @property
    def text(self) -> str:
        """Format as JSON; `read` is the inverse."""
        return json.dumps({**asdict(self.process), "since": self.since, "nonce": self.nonce})

    @classmethod
    def read(cls, token: int, text: str) -> "Claim":
        """Parse a parameter's value."""
        found: dict[str, Any] = json.loads(text)
        since, nonce = found.pop("since"), found.pop("nonce")
        return cls(token, Process(**found), since, nonce)

    def __str__(self) -> str:
        began = datetime.fromtimestamp(self.since, UTC).astimezone()
        return f"{self.process} since {began:%Y-%m-%d %H:%M:%S}"


class Holdable(Protocol):
    """A `RunRecord`, or an `ArmsRecord`."""

    name: str

    @property
    def record(self) -> Store:
        """Fenced while it is held."""

    @property
    def lease_id(self) -> str:
        """MLflow run that notes who holds it."""


class Lease:
    """The right to write one run. Made by `hold`."""

    def __init__(self, client: MlflowClient, run_id: str, name: str, claim: Claim) -> None:
        self.claim = claim
        self._client, self._run_id, self._name = client, run_id, name
        self._lost: Claim | None = None
        self._renewed = _now()
        self._ended = threading.Event()
        self._beating = threading.Thread(target=self._beat, name="lease", daemon=True)

    def check(self, *, surely: bool = False) -> None:
        """Refuse to continue once another process holds the run.

        Args:
            surely: ask the record even right after a beat.

        Raises:
            HeldError: another process has taken the run over.
        """
        if self._lost is None and (surely or _now() - self._renewed > TTL_S):
            self._look()
        if self._lost is not None:
            raise HeldError(
                f"was taken over by {self._lost}; this process writes nothing more",
                where=self._name,
                hint=f"follow the run: sia status {self._name}",
            )

    def begin(self) -> None:
        """Beat from now on."""
        self._mark(str(time.time()))
        self._beating.start()

    def end(self) -> None:
        """Give the lease back, unless another process took it."""
        self._ended.set()
        self._beating.join(timeout=BEAT_S)
        if self._lost is None:
            with suppress(Exception):  # The store may be what failed; the lease then runs out by itself.
                self._mark(_BACK)

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_S) and self._lost is None:
            # In an outage, the next beat tries again; `check` asks before anything is written.
            with suppress(Exception), in_haste():
                self._look()
                self._mark(str(time.time()))

    def _look(self) -> None:
        latest = _latest(self._client, self._run_id)
        self._lost = latest if latest is not None and latest.nonce != self.claim.nonce else None
        self._renewed = _now()

    def _mark(self, text: str) -> None:
        self._client.set_tag(self._run_id, f"{_TAG}{self.claim.token}", text)


@contextmanager
def hold(run: Holdable, say: Callable[[str], None] = lambda _: None) -> Iterator[Lease]:
    """Hold a run: only this process may write through `run`, and writes are refused once the lease is lost.

    Args:
        run: run whose record is fenced from now on.
        say: is called when a holder on another machine has to be waited for.

    Raises:
        HeldError: another process holds the run.
    """
    client, lease_id = run.record.client, run.lease_id
    lease = Lease(client, lease_id, run.name, _claim(client, lease_id, run.name, say))
    lease.begin()
    run.record.known.clear()  # Until now others may have written.
    before, run.record.fence = run.record.fence, lease.check
    done = False
    try:
        yield lease
        done = True
    finally:
        run.record.fence = before
        with nullcontext() if done else in_haste(LEAVE_S):
            lease.end()


def refuse_held(run: Holdable) -> None:
    """Refuse early, without waiting, a run that another process of this machine holds.

    Raises:
        HeldError: one does.
    """
    latest = _latest(run.record.client, run.lease_id)
    if latest is not None and latest.process.here and not _is_free(run.record.client, run.lease_id, latest):
        raise _held(run.name, latest, "it is alive")


def _claim(client: MlflowClient, run_id: str, name: str, say: Callable[[str], None]) -> Claim:
    latest = _latest(client, run_id)
    if latest is not None:
        _wait_for_silence(client, run_id, name, latest, say)
    claim = Claim((latest.token if latest else 0) + 1, Process.this(), round(time.time(), 3), token_hex(8))
    with suppress(MlflowException):  # Another process was quicker, or this write succeeded but its answer was lost.
        client.log_param(run_id, f"{_PARAM}{claim.token}", claim.text)
    winner = _latest(client, run_id)
    if winner is None or winner.nonce != claim.nonce:
        raise _held(name, winner or claim, "it was quicker")
    if latest is not None:
        with suppress(MlflowException):  # Only to keep the list of tags short.
            client.delete_tag(run_id, f"{_TAG}{latest.token}")
    return claim


def _wait_for_silence(client: MlflowClient, run_id: str, name: str, latest: Claim, say: Callable[[str], None]) -> None:
    """Wait until the latest claim no longer counts."""
    if _is_free(client, run_id, latest):
        return
    if latest.process.here:
        raise _held(name, latest, "it is alive")
    beat = _last_beat(client, run_id, latest)
    age = time.time() - float(beat or latest.since)
    wait = max(TTL_S - max(age, 0.0), LOOK_S)
    say(f"{name} was last held by {latest}; watching for {wait:.0f} s whether that process still works")
    deadline = _now() + wait
    while _now() < deadline:
        time.sleep(BEAT_S / 5)
        if _is_free(client, run_id, latest):
            return
        if _last_beat(client, run_id, latest) != beat:
            raise _held(name, latest, "it is at work")


def _is_free(client: MlflowClient, run_id: str, latest: Claim) -> bool:
    return latest.process.dead or _last_beat(client, run_id, latest) == _BACK


def _held(name: str, claim: Claim, why: str) -> HeldError:
    process = claim.process
    end = f"kill {process.pid}" if process.here else f"on {process.host}: kill {process.pid}"
    return HeldError(f"is being run by {claim} ({why})", where=name, hint=f"wait for it, or end it ({end}) and resume")


def _latest(client: MlflowClient, run_id: str) -> Claim | None:
    params = client.get_run(run_id).data.params
    tokens = [int(key.removeprefix(_PARAM)) for key in params if key.startswith(_PARAM)]
    return Claim.read(max(tokens), params[f"{_PARAM}{max(tokens)}"]) if tokens else None


def _last_beat(client: MlflowClient, run_id: str, claim: Claim) -> str:
    return str(client.get_run(run_id).data.tags.get(f"{_TAG}{claim.token}", ""))


def _now() -> float:
    """Read a clock that also runs while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()
