"""A server that answers is ours only if its port is held by a process of ours."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from sia_core.domain.errors import ServiceError
from sia_core.host import servers
from sia_core.host.servers import Running, _listens, ensure, stop
from sia_core.host.services import HOST, Service


def test_port_belongs_to_the_process_that_listens() -> None:
    with socket.socket() as own, subprocess.Popen(["sleep", "60"], start_new_session=True) as other:
        try:
            own.bind((HOST, 0))
            own.listen()
            port = own.getsockname()[1]
            assert _listens(Running("it", os.getpid(), port))
            assert not _listens(Running("it", other.pid, port))
            assert not _listens(Running("it", os.getpid(), 9))
        finally:
            other.kill()


def test_child_listens_for_its_parent() -> None:
    code = (
        "import socket, time; s = socket.create_server(('127.0.0.1', 0)); "
        "print(s.getsockname()[1], flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        ["sh", "-c", f'"{sys.executable}" -c "{code}" & wait'], start_new_session=True, stdout=subprocess.PIPE
    ) as shell:
        try:
            assert shell.stdout is not None
            assert _listens(Running("it", shell.pid, int(shell.stdout.readline())))
        finally:
            os.killpg(shell.pid, 9)


def test_server_whose_port_was_taken_meanwhile_moves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two homes that start at once both find the preferred port free."""
    code = "import http.server as h, sys; h.HTTPServer(('127.0.0.1', int(sys.argv[1])), h.SimpleHTTPRequestHandler)"
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        service = Service(
            "server",
            port,
            "/",
            lambda _, port: [sys.executable, "-c", f"{code}.serve_forever()", str(port)],
            lambda _home, _port: {},
        )
        monkeypatch.setattr(servers, "_pick_port", lambda *_: port)
        try:
            running = ensure(service, tmp_path)
            assert running.port != port
            assert ensure(service, tmp_path) == running
            with pytest.raises(ServiceError, match="already runs on port"):
                ensure(service, tmp_path, port=port)
        finally:
            stop(service, tmp_path)
        with pytest.raises(ServiceError, match=f"did not come up on port {port}"):
            ensure(service, tmp_path, port=port)
