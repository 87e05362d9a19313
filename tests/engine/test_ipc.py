"""The socket between workers and the policy: answers, errors, ends and access."""

import os
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from sia_core.engine.ipc import Address, Client, Server, ServerGoneError
from sia_core.policy.protocol import EndpointError

NOBODY = 65534


def answer(request: object) -> object:
    if request == "fail":
        raise EndpointError("no answer", where="here", hint="wait")
    if request == "odd":
        raise ValueError(threading.Lock())
    return [request, threading.current_thread().name]


@pytest.fixture
def address() -> Address:
    address = Address.new()
    Server(address, answer)
    return address


def test_requests_in_many_threads_get_their_own_answers(address: Address) -> None:
    client = Client(address)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(client.ask, range(200)))
    assert [number for number, _ in answers] == list(range(200))
    assert 1 <= len(client._idle) <= 8  # Connections are used again.


def test_error_of_the_server_is_raised_with_its_type(address: Address) -> None:
    client = Client(address)
    with pytest.raises(EndpointError, match="no answer") as caught:
        client.ask("fail")
    assert (caught.value.where, caught.value.hint) == ("here", "wait")
    assert client.ask("next")[0] == "next"


def test_error_that_cannot_be_sent_is_sent_as_text(address: Address) -> None:
    with pytest.raises(RuntimeError, match="ValueError: <unlocked"):
        Client(address).ask("odd")


def test_missing_server_is_an_error() -> None:
    with pytest.raises(ServerGoneError):
        Client(Address.new()).ask("anything")


def test_server_that_dies_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    address = Address.new()
    script = f"""
import os
from sia_core.engine.ipc import Address, Server
Server(Address({address.name!r}, {address.key!r}), lambda request: os._exit(1) if request == "die" else request)
print("up", flush=True)
input()
"""
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"up\n"
        client = Client(address)
        assert client.ask("first") == "first"
        for request in ("die", "after"):
            with pytest.raises(ServerGoneError):
                client.ask(request)
    Server(address, answer)  # The name is free again at once.
    assert client.ask("again")[0] == "again"


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("key", [b"k" * 32, b"k" * 31, b"k" * 33, b"", b"k" * 2**20])
def test_without_the_key_nothing_is_read(address: Address, key: bytes, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(address.name)
        connection = Connection(peer.detach())
    with connection, suppress(BrokenPipeError):
        connection.send_bytes(key)
        connection.send(Trap(tmp_path / "read"))
    with pytest.raises(ServerGoneError):
        Client(Address(address.name, key)).ask("anything")
    assert Client(address).ask("next")[0] == "next"
    assert not (tmp_path / "read").exists()
    Client(address).ask(Trap(tmp_path / "read"))  # The trap works.
    assert (tmp_path / "read").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_other_users_receive_no_bytes(address: Address) -> None:
    script = f"""
import socket
peer = socket.socket(socket.AF_UNIX)
peer.connect({address.name!r})
peer.settimeout(10)
print(peer.recv(100))
"""
    command = ["/usr/bin/python3", "-c", script]
    done = subprocess.run(command, user=NOBODY, capture_output=True, text=True, check=False)
    assert done.stdout == "b''\n", done.stderr
