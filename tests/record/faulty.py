"""A real MLflow server within the test's process, that fails on demand: its own routes, on SQLite, behind a door."""

import os
import shutil
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch
from wsgiref.types import StartResponse, WSGIEnvironment

from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

App = Callable[[WSGIEnvironment, StartResponse], Iterable[bytes]]


@dataclass
class Faulty:
    """The server, and the faults of its next requests."""

    app: App
    port: int = 0
    faults: deque[str] = field(default_factory=deque)
    """Faults of the next requests whose method and path contain `on`: before, after, hang, late, ok, or an HTTP status.

    before: 500, nothing done. after: 500, all done. hang: no answer, nothing done. late: no answer, done when let go.
    """
    on: str = ""
    each_write: str = ""
    """Fault of each request that changes something; a later request with the same path and length is done."""
    asked: list[str] = field(default_factory=list)
    """Method and path of each request."""
    failed: set[str] = field(default_factory=set)
    """Writes that have had the fault `each_write`."""
    let_go: threading.Event = field(default_factory=threading.Event)
    _server: BaseWSGIServer | None = None
    _thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Address of the tracking server."""
        return f"http://127.0.0.1:{self.port}"

    def __call__(self, environment: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        """Handle a request."""
        path = f"{environment['REQUEST_METHOD']} {environment['PATH_INFO']}"
        self.asked.append(path)
        fault = self.faults.popleft() if self.on in path and self.faults else self._fault_of_write(path, environment)
        if fault == "hang":
            self.let_go.wait(30)
            fault = "503"
        if fault == "late":
            self.let_go.wait(30)
            fault = "after"
        if fault == "after":
            b"".join(self.app(environment, lambda *_: lambda _: None))
        if fault == "ok":
            return self.app(environment, start)
        status = "500" if fault in ("before", "after") else fault
        start(f"{status} Failed", [("Content-Type", "text/plain"), ("Content-Length", "6")])
        return [b"failed"]

    def heal(self) -> None:
        """Answer requests from this call on."""
        self.faults.clear()
        self.on = self.each_write = ""
        self.failed.clear()
        self.let_go.set()
        self.let_go = threading.Event()
        if self._server is None:
            self.up()

    def _fault_of_write(self, path: str, environment: WSGIEnvironment) -> str:
        if not self.each_write or path.startswith("GET") or "search" in path:
            return "ok"
        request = f"{path} {environment.get('CONTENT_LENGTH')}"  # The client puts the time into some bodies.
        if request in self.failed:
            return "ok"
        self.failed.add(request)
        return self.each_write

    def up(self) -> None:
        """Take connections, at the same port as before."""
        self._server = make_server("127.0.0.1", self.port, self, threaded=True, request_handler=_Quiet)
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def down(self) -> None:
        """Refuse connections."""
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()
            self._server = None


class _Quiet(WSGIRequestHandler):
    def log_request(self, *_: Any) -> None:
        """Log nothing."""


@contextmanager
def faulty(empty_store: Path) -> Iterator[Faulty]:
    """A server with a store of its own, which begins as a copy of an empty store."""
    with tempfile.TemporaryDirectory(prefix="sia-") as folder:
        shutil.copy(empty_store, Path(folder) / "server.db")
        from mlflow.server.constants import (  # Here, for it takes seconds.
            ARTIFACT_ROOT_ENV_VAR,
            ARTIFACTS_DESTINATION_ENV_VAR,
            BACKEND_STORE_URI_ENV_VAR,
            SERVE_ARTIFACTS_ENV_VAR,
        )

        settings = {
            BACKEND_STORE_URI_ENV_VAR: f"sqlite:///{folder}/server.db",
            ARTIFACTS_DESTINATION_ENV_VAR: str(Path(folder) / "artifacts"),
            SERVE_ARTIFACTS_ENV_VAR: "true",
            ARTIFACT_ROOT_ENV_VAR: "mlflow-artifacts:/",
        }
        with patch.dict(os.environ, settings):
            from mlflow.server import app

            server = Faulty(app)
            server.up()
            try:
                yield server
            finally:
                server.let_go.set()
                server.down()
