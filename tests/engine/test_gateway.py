"""The gateway over a real stream: what it forwards, refuses and records."""

import json
import socket
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from sia_core.candidate import Adapter
from sia_core.engine.gateway import Gateway
from sia_core.engine.jsonl import BadJsonError, parse
from sia_core.harness import Harness
from sia_core.lab import Limits, SandboxResult
from sia_core.policy.protocol import Completion, Request
from sia_core.rollout import Unit
from sia_core.task import Problem

HARNESS = Harness.from_files(
    {
        "harness.toml": b'name="h"\n[budget]\ncalls=3\ntokens=100\nruns=1\n[knobs.n]\nvalue=2\nrange=[1,4]\n',
        "agent.py": b"",
        "prompts/ask.txt": b"Pick {what}",
    }
)
UNIT = Unit("t", "h", "p", None, "train", "p1", 5)
SECRET = "the-answer-7f3a"
PROBLEM = Problem("p1", "train", {"number": 1}, {"x.txt": b"1"}, private=SECRET)


class Echo:
    """A policy that answers with its seed and tells what it was given."""

    spec, digest, trainable, concurrency = "echo", "d", True, 1

    def __init__(self) -> None:
        self.seeds: list[int] = []
        self.broken = False

    def sample(self, request: Request) -> Completion:
        if self.broken:
            raise ConnectionError("no route")
        self.seeds.append(request.seed)
        if request.options is not None:
            return Completion(request.options[-1], str(request.messages), (1,), (2,), (-0.5,), ((2, 3),))
        return Completion(f"s{request.seed}", str(request.messages), (1, 2, 3), (4,), (-0.25,), None)

    def probe(self, adapter: Adapter | None = None) -> tuple[float, ...]:
        return ()


class Lab:
    def run(
        self, files: Mapping[str, bytes], limits: Limits, *, entry: str = "main.py", collect: Sequence[str] = ()
    ) -> SandboxResult:
        return SandboxResult("ok", stdout=",".join(sorted(files)))


class Client:
    """The harness's end of the stream."""

    def __init__(self, policy: Echo) -> None:
        self.policy = policy
        self.gateway = Gateway(UNIT, PROBLEM, HARNESS, None, policy, Lab())
        ours, self.socket = socket.socketpair()
        self.gateway.serve(ours)
        self.lines = self.socket.makefile("rb")
        self.greeting = json.loads(self.lines.readline())

    def send(self, line: bytes) -> dict[str, Any]:
        self.socket.sendall(line + b"\n")
        answer: dict[str, Any] = json.loads(self.lines.readline())
        return answer

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        return self.send(json.dumps({"id": 1, "method": method, "params": params}).encode())

    def close(self) -> None:
        self.lines.close()
        self.socket.close()
        self.gateway.join()


MESSAGES = [{"role": "user", "content": "hello"}]


@pytest.fixture
def client() -> Iterator[Client]:
    client = Client(Echo())
    yield client
    client.close()


def test_the_greeting_holds_what_is_public_and_nothing_private(client: Client) -> None:
    assert client.greeting["problem"] == {"id": "p1", "number": 1}
    assert client.greeting["knobs"] == {"n": 2}
    assert client.greeting["prompts"] == {"ask.txt": "Pick {what}"}
    assert SECRET not in json.dumps(client.greeting)


def test_turns_are_recorded_before_they_are_answered(client: Client) -> None:
    answer = client.call("choose", messages=MESSAGES, options=["a", "b"])
    assert answer["result"] == "b"
    turn = client.gateway.turns[0]
    assert (turn.kind, turn.output, turn.prompt_ids, turn.output_ids) == ("choose", "b", (1,), (2,))
    assert (turn.logprobs, turn.allowed, turn.temperature) == ((-0.5,), ((2, 3),), 1.0)


def test_seeds_differ_between_turns_and_repeat_between_runs() -> None:
    seeds = []
    for _ in range(2):
        client = Client(Echo())
        client.call("chat", messages=MESSAGES)
        client.call("chat", messages=MESSAGES)
        client.close()
        seeds.append(client.policy.seeds)
    assert seeds[0] == seeds[1]
    assert len(set(seeds[0])) == 2


def test_the_budget_is_checked_before_anything_is_forwarded(client: Client) -> None:
    for _ in range(3):
        assert "result" in client.call("chat", messages=MESSAGES)
    refused = client.call("chat", messages=MESSAGES)
    assert refused["error"][0] == "budget"
    assert len(client.policy.seeds) == 3
    assert client.gateway.over_budget


def test_runs_see_the_public_files_and_are_counted(client: Client) -> None:
    assert client.call("run", code="pass")["result"]["stdout"] == "main.py,x.txt"
    assert client.call("run", code="pass")["error"][0] == "budget"


@pytest.mark.parametrize(
    "line",
    [
        b"not json",
        b"[]",
        b'{"method": "steal", "params": {}}',
        b'{"method": "chat"}',
        b'{"method": "chat", "params": {"messages": []}}',
        b'{"method": "chat", "params": {"messages": [{"role": "root", "content": "x"}]}}',
        b'{"method": "choose", "params": {"messages": [{"role": "user", "content": "x"}], "options": ["a", "a"]}}',
        b'{"method": "chat", "params": {"messages": [{"role": "user", "content": "x"}], "model": "other"}}',
        b'{"method": "answer", "params": {"answer": 1e999}}',
        b'{"method": "answer", "params": {"answer": 1, "answer": 2}}',
        b'{"method": "answer", "params": {"answer": "\\ud800"}}',
        b'{"method": "__class__", "params": {}}',
    ],
)
def test_malformed_requests_are_refused_and_cost_nothing(client: Client, line: bytes) -> None:
    assert client.send(line)["error"][0] == "request"
    assert not client.policy.seeds
    assert not client.gateway.answered
    assert "result" in client.call("chat", messages=MESSAGES)


def test_a_policy_that_fails_is_nobodys_zero(client: Client) -> None:
    client.policy.broken = True
    assert client.call("chat", messages=MESSAGES)["error"][0] == "endpoint"
    client.gateway.join()
    assert client.gateway.failure is not None
    assert client.gateway.failure.infrastructure


def test_the_answer_ends_the_conversation(client: Client) -> None:
    client.call("answer", answer={"x": [1, 2.5, "é"]})
    client.gateway.join()
    assert client.gateway.answer == {"x": [1, 2.5, "é"]}


def test_a_harness_that_hangs_up_has_no_answer(client: Client) -> None:
    client.close()
    assert not client.gateway.answered


def test_notes_are_capped(client: Client) -> None:
    for number in range(100):
        client.call("note", text=f"{number}" * 10_000)
    assert len(client.gateway.notes) == 64
    assert max(map(len, client.gateway.notes)) == 4000


@pytest.mark.parametrize(
    "text", [b"1e999", b"[-1e999]", b'{"a":NaN}', b"[" * 50 + b"]" * 50, b'{"a":1,"a":1}', b"x" * 99]
)
def test_strict_json(text: bytes) -> None:
    with pytest.raises(BadJsonError):
        parse(text, limit=98)


def test_deep_nesting_does_not_crash_the_parser() -> None:
    with pytest.raises(BadJsonError):
        parse(b"[" * 200_000, limit=1 << 20)
