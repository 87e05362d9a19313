"""The gateway over a real stream: what it forwards, refuses and records."""

import json
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from sia_core.domain.candidate import Adapter
from sia_core.domain.errors import PolicyError
from sia_core.domain.harness import Harness
from sia_core.domain.lab import Limits, SandboxResult
from sia_core.domain.rollout import ToolCall, Unit
from sia_core.domain.task import Problem
from sia_core.engine.gateway import Gateway
from sia_core.engine.jsonl import BadJsonError, parse
from sia_core.policy.protocol import Completion, RejectedRequestError, Request, most_tokens

TOML = b'name="h"\n[budget]\ncalls=6\ntokens=400\nruns=1\nparallel=3\n[knobs.n]\nvalue=2\nrange=[1,4]\n'
HARNESS = Harness.from_files({"harness.toml": TOML, "agent.py": b"", "prompts/ask.txt": b"Pick {what}"})
UNIT = Unit("t", "h", "p", None, "train", "p1", 5)
SECRET = "the-answer-7f3a"
PROBLEM = Problem("p1", "train", {"number": 1}, {"x.txt": b"1"}, private=SECRET)
MESSAGES = [{"role": "user", "content": "hello"}]
TOOL = {"type": "function", "function": {"name": "add", "description": "", "parameters": {"type": "object"}}}


class Echo:
    """A policy that answers with its seed and remembers what it was given."""

    spec, digest, trainable, concurrency = "echo", "d", True, 8

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.error: Exception | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.most = self._now = 0
        self._lock = threading.Lock()

    @property
    def seeds(self) -> list[int]:
        return [request.seed for request in self.requests]

    def sample(self, request: Request) -> Completion:
        with self._lock:
            self.requests.append(request)
            self._now += 1
            self.most = max(self.most, self._now)
        assert self.gate.wait(30)
        with self._lock:
            self._now -= 1
        if self.error is not None:
            raise self.error
        prompt = str(request.messages)
        if request.tools:
            return Completion("", prompt, finish="tool_calls", tool_calls=(ToolCall("c1", "add", '{"a": 1}'),))
        if request.options is not None:
            return Completion(request.options[-1], prompt, (1,), (2,), (-0.5,), ((2, 3),))
        return Completion(f"s{request.seed}", prompt, (1, 2, 3), (4,), (-0.25,), None, prompt_tokens=3, output_tokens=1)

    def probe(self, adapter: Adapter | None = None) -> tuple[float, ...]:
        return ()


class Lab:
    def run(
        self, files: Mapping[str, bytes], limits: Limits, *, entry: str = "main.py", collect: Sequence[str] = ()
    ) -> SandboxResult:
        return SandboxResult("ok", stdout=",".join(sorted(files)))


class Client:
    """The harness's end of the stream."""

    def __init__(self, policy: Any, harness: Harness = HARNESS) -> None:
        self.policy = policy
        self.gateway = Gateway(UNIT, PROBLEM, harness, None, policy, Lab())
        ours, self.socket = socket.socketpair()
        self.gateway.serve(ours)
        self.lines = self.socket.makefile("rb")
        self.greeting = json.loads(self.lines.readline())

    def post(self, path: str, body: Any, number: int = 1, retry: bool = False) -> None:
        self.write(json.dumps({"id": number, "path": path, "body": body, "retry": retry}).encode())

    def write(self, line: bytes) -> None:
        self.socket.sendall(line + b"\n")

    def read(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.lines.readline())
        return answer

    def send(self, line: bytes) -> dict[str, Any]:
        self.write(line)
        return self.read()

    def call(self, path: str, body: Any, *, retry: bool = False) -> dict[str, Any]:
        self.post(path, body, retry=retry)
        return self.read()

    def chat(self, **extra: Any) -> dict[str, Any]:
        return self.call("/v1/chat/completions", {"messages": MESSAGES, **extra})

    def close(self) -> None:
        if isinstance(self.policy, Echo):
            self.policy.gate.set()
        self.lines.close()
        self.socket.close()
        self.gateway.join()


@pytest.fixture
def client() -> Iterator[Client]:
    client = Client(Echo())
    yield client
    client.close()


def kind(answer: dict[str, Any]) -> str:
    """The error's type."""
    assert answer["status"] >= 400, answer
    return str(answer["body"]["error"]["type"])


def test_greeting_holds_public_data_and_nothing_private(client: Client) -> None:
    assert client.greeting["problem"] == {"id": "p1", "number": 1}
    assert client.greeting["knobs"] == {"n": 2}
    assert client.greeting["prompts"] == {"ask.txt": "Pick {what}"}
    assert SECRET not in json.dumps(client.greeting)


def test_turns_are_recorded_before_they_are_answered(client: Client) -> None:
    answer = client.call("/sia/choose", {"messages": MESSAGES, "options": ["a", "b"]})
    assert answer["body"] == {"choice": "b"}
    turn = client.gateway.turns[0]
    assert (turn.kind, turn.output, turn.prompt_ids, turn.output_ids) == ("choose", "b", (1,), (2,))
    assert (turn.logprobs, turn.allowed, turn.temperature) == ((-0.5,), ((2, 3),), 1.0)


def test_seeds_differ_between_turns_and_repeat_between_runs() -> None:
    seeds = []
    for _ in range(2):
        client = Client(Echo())
        client.chat()
        client.chat()
        client.call("/sia/choose", {"messages": MESSAGES, "options": ["a", "b"]})
        client.close()
        seeds.append(client.policy.seeds)
    assert seeds[0] == seeds[1]
    assert len(set(seeds[0])) == 3


def test_requests_in_flight_together_get_the_same_seeds_in_any_order() -> None:
    orders = ([1, 2, 3], [3, 1, 2])
    seen = []
    for order in orders:
        client = Client(Echo())
        for number in order:
            client.post("/v1/chat/completions", {"messages": [{"role": "user", "content": f"{number}"}]}, number)
        answers = {answer["id"]: answer["body"]["choices"] for answer in (client.read() for _ in order)}
        client.close()
        seen.append([answers[number] for number in (1, 2, 3)])
        assert [turn.prompt[-5] for turn in client.gateway.turns] == [str(number) for number in order]
    assert seen[0] == seen[1]


def test_requests_in_flight_stay_within_the_budget(client: Client) -> None:
    client.policy.gate.clear()
    for number in range(6):
        client.post("/v1/chat/completions", {"messages": [{"role": "user", "content": f"{number}"}]}, number)
    client.policy.gate.set()
    assert sorted(client.read()["id"] for _ in range(6)) == list(range(6))
    assert client.policy.most <= 3


def test_budget_is_checked_before_anything_is_forwarded(client: Client) -> None:
    for _ in range(6):
        assert client.chat(max_tokens=5)["status"] == 200
    refused = client.chat()
    assert (refused["status"], kind(refused)) == (402, "budget")
    assert len(client.policy.seeds) == 6
    assert client.gateway.budget.exceeded


def test_several_samples_are_all_paid_or_none(client: Client) -> None:
    assert kind(client.chat(n=7)) == "budget"
    assert not client.policy.seeds
    answer = client.chat(n=4, max_tokens=5)
    texts = [choice["message"]["content"] for choice in answer["body"]["choices"]]
    assert len(set(texts)) == 4
    assert [turn.output for turn in client.gateway.turns] == texts
    assert answer["budget"] == {"calls": 2, "tokens": 400 - 16, "runs": 1}
    assert answer["body"]["usage"]["completion_tokens"] == 4


def test_prompt_and_reply_get_no_more_tokens_than_are_left(client: Client) -> None:
    client.chat()
    client.gateway.budget.settle(0, 386)
    client.chat()
    first, second = client.policy.requests
    assert first.ceiling == most_tokens(first) + 256 <= 400 and second.ceiling == 10
    client.gateway.budget.settle(0, 6)
    assert kind(client.chat()) == "budget"
    assert len(client.policy.requests) == 2


def test_client_cannot_choose_model_or_sampling(client: Client) -> None:
    answer = client.chat(model="other", temperature=0.1, seed=7, max_tokens=9)
    assert answer["body"]["model"] == "policy"
    (request,) = client.policy.requests
    assert request.sampling.temperature == 1.0
    assert request.sampling.max_tokens == 9
    assert client.chat(max_tokens=10**6)["status"] == 200
    assert client.policy.requests[1].sampling.max_tokens == 256


def test_retried_request_is_served_once(client: Client) -> None:
    first = client.chat()
    again = client.call("/v1/chat/completions", {"messages": MESSAGES}, retry=True)
    assert again["body"] == first["body"]
    assert len(client.policy.seeds) == 1
    assert client.chat()["body"] != first["body"]


def test_runs_see_the_public_files_and_are_counted(client: Client) -> None:
    assert client.call("/sia/run", {"code": "pass"})["body"]["stdout"] == "main.py,x.txt"
    assert kind(client.call("/sia/run", {"code": "pass"})) == "budget"


def test_tools_go_both_ways(client: Client) -> None:
    answer = client.chat(tools=[TOOL])
    (choice,) = answer["body"]["choices"]
    assert choice["finish_reason"] == "tool_calls"
    (call,) = choice["message"]["tool_calls"]
    assert call["function"] == {"name": "add", "arguments": '{"a": 1}'}
    follow = [*MESSAGES, choice["message"], {"role": "tool", "tool_call_id": call["id"], "content": "3"}]
    client.call("/v1/chat/completions", {"messages": follow})
    assert client.policy.requests[-1].messages[1]["tool_calls"][0]["id"] == "c1"
    assert client.gateway.turns[0].tool_calls == (ToolCall("c1", "add", '{"a": 1}'),)


def test_anthropic_messages_are_answered_in_their_format(client: Client) -> None:
    blocks = [
        {"role": "user", "content": "add"},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "c1", "name": "add", "input": {"a": 1}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "3"}]},
    ]
    tools = [{"name": "add", "input_schema": {"type": "object"}}]
    body = {"model": "x", "max_tokens": 9, "system": "be brief", "messages": blocks}
    answer = client.call("/v1/messages", body)["body"]
    assert answer["content"][0]["text"].startswith("s")
    assert answer["usage"] == {"input_tokens": 3, "output_tokens": 1}
    roles = [message["role"] for message in client.policy.requests[0].messages]
    assert roles == ["system", "user", "assistant", "tool"]
    called = client.call("/v1/messages", {**body, "tools": tools})["body"]
    assert called["content"] == [{"type": "tool_use", "id": "c1", "name": "add", "input": {"a": 1}}]
    assert called["stop_reason"] == "tool_use"


@pytest.mark.parametrize(
    "line",
    [
        b"not json",
        b"[]",
        b'{"path": "/v1/steal", "body": {}}',
        b'{"path": "/v1/chat/completions"}',
        b'{"path": "/v1/chat/completions", "body": null}',
        b'{"path": "/v1/chat/completions", "body": {"messages": []}}',
        b'{"path": "/v1/chat/completions", "body": {"messages": [{"role": "root", "content": "x"}]}}',
        b'{"path": "/v1/chat/completions", "body": {"messages": [{"role": "user", "content": 1}]}}',
        b'{"path": "/v1/chat/completions", "body": {"messages": [{"role": "user", "content": "x"}], "n": 0}}',
        b'{"path": "/v1/chat/completions", "body": {"messages": [{"role": "user", "content": "x"}], "stop": "y"}}',
        b'{"path": "/v1/chat/completions", "body": {"messages": [{"role": "user", "content": "x"}], "logprobs": true}}',
        b'{"path": "/v1/messages", "body": {"messages": [{"role": "user", "content": "x"}]}}',
        b'{"path": "/sia/choose", "body": {"messages": [{"role": "user", "content": "x"}], "options": ["a", "a"]}}',
        b'{"path": "/sia/choose", "body": {"messages": [{"role": "user", "content": "x"}], "options": []}}',
        b'{"path": "/sia/run", "body": {"code": 1}}',
        b'{"path": "/sia/run", "body": 7}',
        b'{"path": "/sia/answer", "body": 1e999}',
        b'{"path": "/sia/answer", "body": {"a": 1, "a": 2}}',
        b'{"path": "/sia/answer", "body": "\\ud800"}',
        b'{"path": "__class__", "body": {}}',
        b'{"path": ["/sia/answer"], "body": {}}',
    ],
)
def test_malformed_requests_are_refused_and_cost_nothing(client: Client, line: bytes) -> None:
    assert kind(client.send(line)) == "request"
    assert not client.policy.seeds
    assert not client.gateway.answered
    answer = client.chat()
    assert answer["status"] == 200
    assert (answer["budget"]["calls"], answer["budget"]["runs"]) == (5, 1)


def test_policy_failure_leaves_the_rollout_unscored(client: Client) -> None:
    client.policy.error = ConnectionError("no route")
    assert kind(client.chat()) == "endpoint"
    client.gateway.join()
    assert client.gateway.failure is not None
    assert client.gateway.failure.infrastructure


def test_request_that_the_policy_rejects_is_an_error_of_the_harness(client: Client) -> None:
    client.policy.error = RejectedRequestError("too long")
    assert kind(client.chat()) == "request"
    client.policy.error = None
    assert client.chat()["status"] == 200
    assert client.gateway.failure is None
    assert len(client.gateway.turns) == 1


def test_unusable_policy_is_a_fatal_error_of_the_gateway(client: Client) -> None:
    client.policy.error = PolicyError("wrong key")
    assert kind(client.chat()) == "endpoint"
    client.gateway.join()
    assert client.gateway.fatal is client.policy.error


def test_answer_ends_the_conversation(client: Client) -> None:
    client.call("/sia/answer", {"x": [1, 2.5, "é"]})
    client.gateway.join()
    assert client.gateway.answer == {"x": [1, 2.5, "é"]}


def test_harness_that_hangs_up_has_no_answer(client: Client) -> None:
    client.close()
    assert not client.gateway.answered


def test_notes_are_capped(client: Client) -> None:
    for number in range(100):
        client.call("/sia/note", f"{number}" * 10_000)
    assert len(client.gateway.notes) == 64
    assert max(map(len, client.gateway.notes)) == 4000


@pytest.mark.parametrize(
    "text", [b"1e999", b"[-1e999]", b'{"a":NaN}', b"[" * 50 + b"]" * 50, b'{"a":1,"a":1}', b"x" * 99]
)
def test_invalid_json_is_refused(text: bytes) -> None:
    with pytest.raises(BadJsonError):
        parse(text, limit=98)


def test_deep_nesting_does_not_crash_the_parser() -> None:
    with pytest.raises(BadJsonError):
        parse(b"[" * 200_000, limit=1 << 20)
