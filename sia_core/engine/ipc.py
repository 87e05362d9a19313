"""Requests to the policy from workers on its own machine, over a Unix socket.

A short rollout with one request took 26 ms of CPU by a Ray call, and takes 20 ms by this socket (77 and 98 a second on
two cores: bench/README.md, engine). Workers on other machines, or with a broken connection, use Ray.

Both ends are trusted processes of SIA, so messages are pickled, as in Ray. Both ends must have the same user, and the
client must know the key: a confined program has neither the system call nor the key.
"""

import os
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from hmac import compare_digest
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from secrets import token_bytes, token_hex
from threading import Thread
from typing import Any


@dataclass(frozen=True)
class Address:
    """Address of a server on its machine: an abstract socket, so that a killed server leaves no file."""

    name: str
    key: bytes = field(repr=False)

    @classmethod
    def new(cls) -> "Address":
        """Create an unguessable address."""
        return cls(f"\0sia-{token_hex(16)}", token_bytes(32))


class Server:
    """Answers requests until the process ends, with one thread for each connection."""

    def __init__(self, address: Address, answer: Callable[[Any], Any]) -> None:
        self._key = address.key
        self._answer = answer
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(address.name)
        self._listener.listen(socket.SOMAXCONN)
        Thread(target=self._accept, name="ipc", daemon=True).start()

    def _accept(self) -> None:
        while True:
            peer, _ = self._listener.accept()
            if _user_of(peer) == os.geteuid():
                Thread(target=self._serve, args=(Connection(peer.detach()),), name="ipc peer", daemon=True).start()
            else:
                peer.close()

    def _serve(self, peer: Connection) -> None:
        with peer, suppress(EOFError, OSError):
            if not compare_digest(peer.recv_bytes(len(self._key)), self._key):
                return
            while True:
                request = peer.recv()
                reply: tuple[Any, Exception | None]
                try:
                    reply = self._answer(request), None
                except Exception as error:  # noqa: BLE001  (the client handles it)
                    reply = None, _sendable(error)
                peer.send(reply)


class Client:
    """Asks one server, from any number of threads; each request has its own connection."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._idle: list[Connection] = []

    def ask(self, request: Any) -> Any:
        """Return the server's answer, or raise the server's exception.

        Raises:
            ServerGoneError: no server on this machine, or the server ended without an answer.
        """
        try:
            peer = self._take()
            try:
                peer.send(request)
                answer, error = peer.recv()
            except BaseException:
                peer.close()
                raise
        except (EOFError, OSError) as gone:
            raise ServerGoneError from gone
        self._idle.append(peer)
        if error is not None:
            raise error
        return answer

    def _take(self) -> Connection:
        with suppress(IndexError):
            return self._idle.pop()
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(self._address.name)
            if _user_of(peer) != os.geteuid():
                raise ConnectionRefusedError("another user's process listens")
            connection = Connection(peer.detach())
        connection.send_bytes(self._address.key)
        return connection


class ServerGoneError(Exception):
    """No server answers at an address."""


@cache
def client_of(address: Address) -> Client:
    """Return this process's client of a server."""
    return Client(address)


def _sendable(error: Exception) -> Exception:
    try:
        ForkingPickler.dumps(error)
    except Exception:  # noqa: BLE001  (an attribute's code may raise anything)
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _user_of(peer: socket.socket) -> int:
    """User id of the process at the other end; see SO_PEERCRED in unix(7)."""
    credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", credentials)[1])
