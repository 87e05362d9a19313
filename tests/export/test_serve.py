"""The endpoint answers valid requests, refuses invalid ones and requires a token."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from sia_core.domain.errors import ServiceError
from sia_core.export.inference import Inference
from sia_core.export.manifest import Export
from sia_core.export.serve import BODY_LIMIT, build_app, listen
from sia_core.policy.scripted import ScriptedPolicy
from tests.export.makers import make_export

TOKEN = "a-token"
PROBLEM = json.dumps({"number": 3})


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A sandbox for all tests of the module."""
    export = Export.load(make_export(tmp_path_factory.mktemp("export")))
    inference = Inference(export, ScriptedPolicy(), "strict")
    yield TestClient(build_app(inference, TOKEN), headers={"Authorization": f"Bearer {TOKEN}"})
    inference.close()


def ask(client: TestClient, model: str, text: str, **more: Any) -> Any:
    """Send a chat request and return the answer, with its status under `status`."""
    body = {"model": model, "messages": [{"role": "user", "content": text}], **more}
    answer = client.post("/v1/chat/completions", json=body)
    return {"status": answer.status_code, **answer.json()}


def test_agent_solves_a_problem_in_the_sandbox(client: TestClient) -> None:
    answer = ask(client, "agent", PROBLEM, seed=1)
    assert answer["status"] == 200 and answer["model"] == "agent"
    assert json.loads(answer["choices"][0]["message"]["content"])["colour"] in ("red", "green")
    again = ask(client, "agent", PROBLEM, seed=1)
    assert again["choices"] == answer["choices"]
    seen = {ask(client, "agent", PROBLEM, seed=seed)["choices"][0]["message"]["content"] for seed in range(8)}
    assert len(seen) == 2


def test_policy_is_served_as_a_plain_chat_model(client: TestClient) -> None:
    answer = ask(client, "policy", "hello", seed=1, n=2, temperature=0.5)
    texts = [choice["message"]["content"] for choice in answer["choices"]]
    assert len(texts) == 2 and all(text.startswith("scripted reply") for text in texts)
    assert texts == [c["message"]["content"] for c in ask(client, "policy", "hello", seed=1, n=2)["choices"]]


def test_stream_holds_the_same_text(client: TestClient) -> None:
    whole = ask(client, "policy", "hello", seed=1)["choices"][0]["message"]["content"]
    body = {"model": "policy", "messages": [{"role": "user", "content": "hello"}], "seed": 1, "stream": True}
    answer = client.post("/v1/chat/completions", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [json.loads(line[6:]) for line in answer.text.split("\n") if line.startswith("data: {")]
    assert "".join(event["choices"][0]["delta"].get("content") or "" for event in events if event["choices"]) == whole
    assert answer.text.rstrip().endswith("data: [DONE]")


@pytest.mark.parametrize(
    ("model", "text", "more", "words"),
    [
        ("gpt", "hello", {}, "there are: agent, policy"),
        ("agent", "hello", {}, "JSON object with number"),
        ("agent", "[1]", {}, "JSON object with number"),
        ("agent", "{}", {}, "lacks number"),
        ("agent", PROBLEM, {"temperature": 0.5}, "as it was scored"),
        ("agent", PROBLEM, {"n": 2}, "n = 1"),
        ("policy", "hello", {"temperature": 0}, "above 0"),
        ("policy", "hello", {"top_p": 0.5}, "top_p=0.5"),
        ("policy", "hello", {"seed": "x"}, "seed"),
        ("agent", PROBLEM, {"stop": ["x"]}, "stop"),
        ("policy", "hello", {"logprobs": True}, "logprobs"),
    ],
)
def test_unsupported_requests_are_refused(client: TestClient, model: str, text: str, more: Any, words: str) -> None:
    answer = ask(client, model, text, **more)
    assert answer["status"] == 400 and words in answer["error"]["message"], answer


def test_access_token_is_required(client: TestClient) -> None:
    for header in ("", "Bearer wrong", TOKEN[:-1]):
        assert client.get("/v1/models", headers={"Authorization": header}).status_code == 401
    assert client.get("/health", headers={"Authorization": ""}).status_code == 200
    assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["agent", "policy"]


def test_malformed_request_bodies_are_refused(client: TestClient) -> None:
    post = "/v1/chat/completions"
    assert client.post(post, content=b"{").status_code == 400
    assert client.post(post, content=b"[" * 100_000).status_code == 400
    assert client.post(post, content=b"x" * (BODY_LIMIT + 1)).status_code == 413


def test_harness_failure_is_an_error_reply(tmp_path: Path) -> None:
    export = Export.load(make_export(tmp_path))
    broken = {**export.harness.files, "agent.py": b"async def solve(problem, ctx):\n    raise KeyError('x')\n"}
    object.__setattr__(export.harness, "files", broken)
    inference = Inference(export, ScriptedPolicy(), "strict")
    try:
        answer = ask(TestClient(build_app(inference, ""), headers={"Authorization": "Bearer "}), "agent", PROBLEM)
    finally:
        inference.close()
    assert answer["status"] == 422 and answer["error"]["type"] == "error" and "KeyError" in answer["error"]["message"]


def test_taken_port_is_named() -> None:
    with listen(0) as bound, pytest.raises(ServiceError, match="is not available"):
        listen(bound.getsockname()[1])
