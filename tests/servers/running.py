"""Start a real model server for tests, and end it with all its children."""

import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

START_S = 600.0


@dataclass(frozen=True)
class Running:
    """A server that answers."""

    url: str
    """Base address without a path."""
    model: str
    """Name of the model in requests."""
    pid: int

    def kill(self) -> None:
        """End the server at once, as a crash does."""
        os.killpg(self.pid, signal.SIGKILL)


def free_port() -> int:
    """A port that no process listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextmanager
def serving(
    command: Sequence[str], model: str, log: Path, port: int, health: str, environment: Mapping[str, str] | None = None
) -> Iterator[Running]:
    """Run a server's command until it is healthy; end it with the context.

    Args:
        command: the program and its arguments.
        model: name of the model in requests.
        log: file for its output.
        port: port that the command names.
        health: path that answers 200 once the server is ready.
        environment: variables beside this process's.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "HF_HUB_OFFLINE": "1", **(environment or {})},
            start_new_session=True,
        )
    try:
        _wait(process, f"http://127.0.0.1:{port}{health}", log)
        yield Running(f"http://127.0.0.1:{port}", model, process.pid)
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, number)
                process.wait(20)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue


def _wait(process: "subprocess.Popen[bytes]", health: str, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            with urllib.request.urlopen(health, timeout=5) as answer:
                if answer.status == 200:
                    return
        except OSError:
            pass
        ended = process.poll() is not None
        if process.returncode == -signal.SIGILL:
            pytest.skip(f"the server that writes {log.name} was built for another processor")
        assert not ended and time.monotonic() < deadline, f"no server: {log.read_text(errors='replace')[-3000:]}"
        time.sleep(0.5)
