"""An HTTP proxy in this process, which connects a jailed command to its allowed hosts.

The proxy listens on a socket that the jail opened in its own network, so no other process can use it. `CONNECT` opens a
tunnel for the command's own TLS; a request with a whole `http://` address is forwarded. Everything else is refused.
"""

import contextlib
import socket
import threading
from collections.abc import Sequence
from urllib.parse import urlsplit

from sia_core.engine.jail.hosts import Allowed, RefusedError, connect
from sia_core.engine.jail.standing import ready

_HEAD, _CHUNK = 1 << 14, 1 << 16
_CONNECTIONS = 64
_PATIENCE_S, _IDLE_S, _LOOK_S = 30.0, 900.0, 0.2


class Proxy:
    """Serves one listener until it is closed."""

    def __init__(self, listener: socket.socket, allowed: Sequence[Allowed]) -> None:
        self._listener, self._allowed = listener, allowed
        self._room = threading.BoundedSemaphore(_CONNECTIONS)
        self._ended = threading.Event()
        self.refused: list[str] = []
        """Hosts that were refused, each once."""
        listener.settimeout(_LOOK_S)
        self._thread = threading.Thread(target=self._accept, name="jail-proxy", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Close every connection."""
        self._ended.set()
        self._thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while not self._ended.is_set():
            try:
                made, _ = self._listener.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            if not self._room.acquire(blocking=False):
                made.close()
                continue
            threading.Thread(target=self._serve, args=(made,), name="jail-proxy-connection", daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        try:
            with near, contextlib.suppress(OSError, ValueError, UnicodeError):
                near.settimeout(_PATIENCE_S)
                self._answer(near)
        finally:
            self._room.release()

    def _answer(self, near: socket.socket) -> None:
        head, rest = _read_head(near)
        line, _, headers = head.partition("\r\n")
        method, target, version = line.split(" ")
        tunnel = method == "CONNECT"
        place = urlsplit(f"//{target}" if tunnel else target)
        if not place.hostname or (not tunnel and place.scheme != "http"):
            near.sendall(_reply(400, "give CONNECT host:port, or a whole http:// address"))
            return
        port = place.port or (443 if tunnel else 80)
        try:
            far = connect(place.hostname, port, self._allowed, _PATIENCE_S)
        except RefusedError as error:
            self._note(f"{place.hostname}:{port}")
            near.sendall(_reply(403, str(error)))
            return
        except OSError as error:
            near.sendall(_reply(502, f"{place.hostname}:{port} cannot be reached: {error}"))
            return
        with far:
            if tunnel:
                near.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                path = place.path or "/"
                query = f"?{place.query}" if place.query else ""
                rest = f"{method} {path}{query} {version}\r\n{_without_proxy(headers)}\r\n\r\n".encode() + rest
            far.sendall(rest)
            self._pass_on(near, far)

    def _pass_on(self, near: socket.socket, far: socket.socket) -> None:
        """Copy both ways until one side ends, or both are idle for _IDLE_S."""
        sides = {side.fileno(): side for side in (near, far)}
        idle = 0.0
        while not self._ended.is_set() and idle < _IDLE_S:
            found = ready(list(sides), _LOOK_S)
            idle = 0.0 if found else idle + _LOOK_S
            for side in map(sides.__getitem__, found):
                data = side.recv(_CHUNK)
                if not data:
                    return
                (far if side is near else near).sendall(data)

    def _note(self, place: str) -> None:
        if place not in self.refused and len(self.refused) < _CONNECTIONS:
            self.refused.append(place)


def _read_head(near: socket.socket) -> tuple[str, bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        more = near.recv(_CHUNK)
        if not more or len(data) > _HEAD:
            raise ValueError("no head of a request")
        data += more
    head, _, rest = data.partition(b"\r\n\r\n")
    return head.decode("latin-1"), rest


def _without_proxy(headers: str) -> str:
    return "\r\n".join(line for line in headers.split("\r\n") if not line.lower().startswith("proxy-"))


def _reply(status: int, why: str) -> bytes:
    body = f"{why}\n".encode()
    head = f"HTTP/1.1 {status} Refused\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\nConnection: close"
    return f"{head}\r\n\r\n".encode() + body
