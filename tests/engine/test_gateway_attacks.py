"""Harnesses that attack the gateway: nothing is forwarded, recorded or kept that they did not pay for."""

import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from sia_core.engine.lines import LINE_LIMIT
from tests.engine.test_gateway import MESSAGES, Client, Echo, kind

CHAT = "/v1/chat/completions"


@pytest.fixture
def client() -> Iterator[Client]:
    client = Client(Echo())
    yield client
    client.close()


def push(client: Client, line: bytes, most: int, patience_s: float = 1.0) -> int:
    """Number of bytes that the gateway accepts while the client reads nothing."""
    client.socket.settimeout(patience_s)
    sent = 0
    try:
        while sent < most:
            sent += client.socket.send(memoryview(line)[sent % len(line) :])
    except TimeoutError:
        return sent
    return sent


@pytest.mark.parametrize("path", ["/v1/models", "/sia/note", "/no/such/path", CHAT])
def test_flood_of_requests_is_held_back(client: Client, path: str) -> None:
    body = {"messages": MESSAGES} if path == CHAT else None
    line = json.dumps({"path": path, "body": body, "id": 1}).encode() + b"\n"
    assert push(client, line * 100, 50 << 20) < 10 << 20
    assert len(client.policy.requests) <= 6 and len(client.gateway._served) <= 6


def test_flood_of_refused_lines_leaves_nothing_behind(client: Client) -> None:
    for number in range(3000):
        answer = client.call(CHAT, {"messages": [{"role": "root", "content": f"{number}"}]})
        assert answer["status"] == 400
    assert len(client.gateway._served) == 0
    assert client.chat()["status"] == 200


def test_waiting_requests_are_dropped_when_the_harness_is_gone(client: Client) -> None:
    client.policy.gate.clear()
    for number in range(6):
        client.post(CHAT, {"messages": [{"role": "user", "content": f"{number}"}], "max_tokens": 10}, number)
    while len(client.policy.requests) < 3:
        time.sleep(0.01)
    client.lines.close()
    client.socket.close()
    time.sleep(0.1)
    client.policy.gate.set()
    client.gateway.join()
    assert len(client.policy.requests) == len(client.gateway.turns) == 3


def test_answer_is_kept_after_the_harness_stopped_reading(client: Client) -> None:
    client.policy.gate.clear()
    client.post(CHAT, {"messages": MESSAGES})
    while not client.policy.requests:
        time.sleep(0.01)
    client.socket.shutdown(socket.SHUT_RD)
    client.policy.gate.set()
    client.post("/sia/answer", 1)
    client.gateway.join()
    assert client.gateway.answer == 1 and len(client.gateway.turns) == 1 and client.gateway.failure is None


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\0",
        b"\xff\xfe",
        b'{"path": "/sia/answer", "body": ' + b"[" * 10**5 + b"}",
        b'{"path": "/sia/answer", "body": ' + b"9" * 4000 + b"}",
        b'{"path": "/sia/answer", "body": ' + b"9" * 400 + b"}",
        b'{"path": "/sia/answer", "body": {"\\udfff": 1}}',
        b'{"path": "/sia/answer", "body": 1, "body": 2}',
        b'{"path": "/sia/run", "body": {"code": "", "seconds": ' + b"9" * 400 + b"}}",
        b'{"path": "/sia/run", "body": {"code": "", "seconds": true}}',
        b'{"path": "/v1/chat/completions", "body": {"messages": [{"role": "user", "content": "x"}], "n": -1}}',
        b'{"path": "/v1/chat/completions", "body": {"messages": [{"role": "user", "content": "x"}], "n": 1e9}}',
        b'{"path": "/v1/chat/completions", "body": {"messages": [{"role": "user", "content": "x"}], "max_tokens": -5}}',
        b'{"path": "/v1/messages", "body": {"messages": [{"role": "user", "content": "x"}], "max_tokens": -5}}',
        b'{"path": "/sia/turn", "body": {"output": "forged", "logprobs": [0]}}',
    ],
)
def test_lines_that_are_no_requests_are_refused(client: Client, line: bytes) -> None:
    assert kind(client.send(line)) == "request"
    assert not client.policy.requests and not client.gateway.turns and not client.gateway.answered
    assert client.gateway.budget.left == {"calls": 6, "tokens": 400, "runs": 1}
    assert client.chat()["status"] == 200 and client.gateway.failure is None


def test_line_without_end_is_refused_piece_by_piece(client: Client) -> None:
    client.socket.sendall(b"x" * (3 * LINE_LIMIT) + b"\n")
    assert [kind(client.read()) for _ in range(3)] == ["request"] * 3
    assert client.chat()["status"] == 200


def test_first_answer_of_a_harness_counts(client: Client) -> None:
    lines = [
        {"path": "/sia/answer", "body": 1},
        {"path": "/sia/answer", "body": 2},
        {"path": "/sia/note", "body": "late"},
    ]
    client.socket.sendall(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
    client.gateway.join()
    assert (client.gateway.answer, client.gateway.notes) == (1, [])


def test_retries_of_a_request_in_flight_cost_one_and_are_held_back(client: Client) -> None:
    client.policy.gate.clear()
    messages = [{"role": "user", "content": "x" * 500_000}]
    line = json.dumps({"path": CHAT, "body": {"messages": messages}, "retry": True, "id": 1}).encode() + b"\n"
    before = psutil.Process().memory_info().rss
    assert push(client, line, 200 << 20, 3.0) < 100 << 20
    assert psutil.Process().memory_info().rss - before < 150 << 20
    client.policy.gate.set()
    client.socket.settimeout(None)
    answers: list[Any] = [client.read() for _ in range(50)]
    assert len({json.dumps(answer["body"]) for answer in answers}) == 1
    assert len(client.policy.requests) == 1


def test_descriptors_sent_along_are_dropped(client: Client) -> None:
    client.chat()
    before = psutil.Process().num_fds()
    line = json.dumps({"path": "/v1/models", "body": None, "id": 1}).encode() + b"\n"
    for _ in range(20):
        socket.send_fds(client.socket, [line], [0, 1, 2])
        assert client.read()["status"] == 200
    assert psutil.Process().num_fds() == before
