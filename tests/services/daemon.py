"""Real servers for tests: started on a free port, waited for, ended with all that they started."""

import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

START_S = 600.0
"""Seconds to start: MLflow and Prefect import for 20 s of CPU, and the machine may be busy."""


def free_port() -> int:
    """A port without a listener."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(url: str) -> bool:
    """True if a server answers with 200."""
    try:
        with urllib.request.urlopen(url, timeout=2) as reply:
            return bool(reply.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def listens(port: int) -> bool:
    """True if a server accepts connections at this port of the loopback."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


class Daemon:
    """A server process in a group of its own. Use as a context manager."""

    def __init__(
        self,
        command: Sequence[str],
        ready: Callable[[], bool],
        log: Path,
        *,
        environment: Mapping[str, str] | None = None,
        user: str | None = None,
        cwd: Path | None = None,
    ) -> None:
        self._ready, self._log, self._words = ready, log, shlex.join(command)
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                list(command),
                env=dict(environment if environment is not None else os.environ),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
                user=user,
                cwd=cwd,
            )

    @property
    def pid(self) -> int:
        """Process id of the server, which is also the id of its group."""
        return self._process.pid

    def wait(self) -> Self:
        """Return when the server answers. Otherwise fail with the end of its log."""
        deadline = time.monotonic() + START_S
        while not self._ready():
            said = self._log.read_text(errors="replace")[-3000:]
            assert self._process.poll() is None, f"{self._words} ended:\n{said}"
            assert time.monotonic() < deadline, f"{self._words} did not come up:\n{said}"
            time.sleep(0.2)
        return self

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End the whole group."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(20)
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def module(*words: str) -> list[str]:
    """A command of this interpreter's: `python -m ...`."""
    return [sys.executable, "-m", *words]


def mlflow_server(folder: Path, port: int | None = None) -> tuple[Daemon, str]:
    """An MLflow server on SQLite, with an artifact proxy; not waited for."""
    folder.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    command = [
        *module("mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{folder / 'server.db'}"),
        *("--artifacts-destination", str(folder / "artifacts")),
    ]
    url = f"http://127.0.0.1:{port}"
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    return Daemon(
        command, lambda: answers(f"{url}/health"), folder / "mlflow.log", environment=environment, cwd=folder
    ), url
