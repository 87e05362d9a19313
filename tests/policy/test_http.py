"""Models over HTTP: the real client libraries against a local server with the real wire formats."""

import json
import pickle
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sia_core.domain.candidate import Adapter
from sia_core.domain.errors import PolicyError, SiaError
from sia_core.domain.rollout import Sampling, ToolCall
from sia_core.policy.anthropic_messages import AnthropicPolicy
from sia_core.policy.faults import UnknownModelError
from sia_core.policy.log import LoggedPolicy, ReplayPolicy
from sia_core.policy.openai_chat import OpenAIPolicy
from sia_core.policy.protocol import EndpointError, Policy, RejectedRequestError, Request
from sia_core.policy.registry import load_policy, policy_digest
from sia_core.policy.retry import Retry
from sia_core.policy.spec import parse_spec
from tests.factories import ask
from tests.wire.server import Answer, Wire, chat, error, message, raw, reset, serve

KEY = "sk-secret-7f3a9"
TOOL = {"type": "function", "function": {"name": "add", "description": "adds", "parameters": {"type": "object"}}}
CALLED = [{"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}]
KINDS = ("openai", "anthropic")


def connect(kind: str, url: str, retry: Retry, model: str = "m") -> Policy:
    """A policy of either kind at that address."""
    spec = parse_spec(f"{kind}:{model}@{url}/v1" if kind == "openai" else f"{kind}:{model}@{url}")
    assert spec is not None
    return OpenAIPolicy(spec, retry) if kind == "openai" else AnthropicPolicy(spec, retry)


@pytest.fixture
def wire() -> Iterator[Wire]:
    with serve() as wire:
        yield wire


@pytest.fixture
def pauses() -> list[float]:
    return []


@pytest.fixture
def make(wire: Wire, pauses: list[float], monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Policy]:
    """A policy of either kind that sleeps into a list."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)

    def policy(kind: str) -> Policy:
        answer = chat("hello") if kind == "openai" else message({"type": "text", "text": "hello"})
        wire.answer = wire.answer or answer
        return connect(kind, wire.url, Retry(attempts=4, first_s=0.5, longest_s=30.0, sleep=pauses.append))

    return policy


@pytest.mark.parametrize("kind", KINDS)
def test_reply_and_request_match_the_api(make: Callable[[str], Policy], wire: Wire, kind: str) -> None:
    done = make(kind).sample(ask("Say", seed=5, temperature=0.5, max_tokens=9))
    assert (done.text, done.finish, done.output_tokens) == ("hello", "stop", 3)
    assert done.prompt_tokens == {"openai": 7, "anthropic": 9}[kind]
    assert (done.prompt_ids, done.output_ids, done.logprobs) == (None, None, None)
    ((path, headers, body),) = wire.requests
    assert path == {"openai": "/v1/chat/completions", "anthropic": "/v1/messages"}[kind]
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("m", 0.5, 9)
    assert KEY in (headers.get("authorization", "") + headers.get("x-api-key", ""))
    if kind == "openai":
        assert body["seed"] == 5
        assert body["messages"] == [{"role": "user", "content": "Say"}]


@pytest.mark.parametrize("kind", KINDS)
def test_tools_go_both_ways(make: Callable[[str], Policy], wire: Wire, kind: str) -> None:
    block = {"type": "tool_use", "id": "c1", "name": "add", "input": {"a": 1}}
    wire.answer = chat(None, calls=CALLED, finish="tool_calls") if kind == "openai" else message(block, stop="tool_use")
    talk = (
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "add"},
        {"role": "assistant", "content": None, "tool_calls": CALLED},
        {"role": "tool", "tool_call_id": "c1", "content": "3"},
        {"role": "user", "content": "again"},
    )
    done = make(kind).sample(Request(talk, Sampling(), 0, tools=(TOOL,)))
    assert done.finish == "tool_calls"
    assert done.tool_calls == (ToolCall("c1", "add", '{"a": 1}'),)
    ((_, _, body),) = wire.requests
    if kind == "openai":
        assert body["messages"] == [dict(entry) for entry in talk]
        assert body["tools"] == [TOOL]
        return
    assert body["system"][0]["text"] == "be brief"
    assert body["tools"] == [{"name": "add", "description": "adds", "input_schema": {"type": "object"}}]
    assert [turn["role"] for turn in body["messages"]] == ["user", "assistant", "user"]
    assert body["messages"][1]["content"] == [block]
    assert [part["type"] for part in body["messages"][2]["content"]] == ["tool_result", "text"]


def chosen(kind: str, option: str) -> Answer:
    if kind == "openai":
        return chat(json.dumps({"choice": option}))
    return message({"type": "text", "text": json.dumps({"choice": option})})


@pytest.mark.parametrize("kind", KINDS)
def test_choice_is_an_option_or_nothing(make: Callable[[str], Policy], wire: Wire, kind: str) -> None:
    wire.faults.extend([chosen(kind, "c"), chosen(kind, "b")])
    policy = make(kind)
    done = policy.sample(ask("Pick", ["a", "b"]))
    assert (done.text, done.finish, done.logprobs, done.tool_calls) == ("b", "stop", None, ())
    assert len(wire.requests) == 2
    body = wire.requests[0][2]
    wanted = body["response_format"]["json_schema"] if kind == "openai" else body["output_config"]["format"]
    assert wanted["schema"]["properties"]["choice"]["enum"] == ["a", "b"]
    assert "tool_choice" not in body
    wire.answer = chosen(kind, "c")
    with pytest.raises(EndpointError, match="6 replies of the model were none of the 2 options"):
        policy.sample(ask("Pick", ["a", "b"]))
    assert len(wire.requests) == 8


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "fault",
    [
        error(429),
        error(500),
        error(503),
        error(529),
        error(408),
        reset,
        raw(b'{"id": "c"'),
        raw(b"[]"),
        raw(b"hello", "text/plain"),
    ],
)
def test_transient_faults_are_retried(
    make: Callable[[str], Policy], wire: Wire, pauses: list[float], kind: str, fault: Answer
) -> None:
    wire.faults.extend([fault, fault])
    assert make(kind).sample(ask("Say")).text == "hello"
    assert len(wire.requests) == 3
    assert len(pauses) == 2
    assert all(0 <= pause <= 0.5 * 2**at for at, pause in enumerate(pauses))


@pytest.mark.parametrize("kind", KINDS)
def test_silent_server_is_left_after_the_timeout(wire: Wire, kind: str) -> None:
    over = threading.Event()

    def nothing(handler: Any, body: dict[str, Any]) -> None:
        over.wait(20)

    wire.answer = nothing
    waits: list[float] = []
    policy = connect(kind, wire.url, Retry(attempts=2, timeout_s=0.2, sleep=waits.append))
    with pytest.raises(EndpointError, match="timed out"):
        policy.sample(ask("Say"))
    over.set()
    assert len(waits) == 1 and len(wire.requests) == 2


def test_reply_under_a_wrong_content_type_is_read(make: Callable[[str], Policy], wire: Wire) -> None:
    said = {"choices": [{"message": {"content": "hello"}, "finish_reason": None}]}
    wire.answer = raw(json.dumps(said).encode(), "text/html")
    done = make("openai").sample(ask("Say"))
    assert (done.text, done.finish, done.prompt_tokens, done.output_tokens) == ("hello", "stop", 0, 0)


@pytest.mark.parametrize(
    "broken",
    [{"choices": []}, {"choices": None}, {"error": {"message": "later"}}, {"choices": [{"message": {"content": 3}}]}],
)
def test_replies_without_content_are_retried(make: Callable[[str], Policy], wire: Wire, broken: dict[str, Any]) -> None:
    wire.faults.append(raw(json.dumps(broken).encode()))
    assert make("openai").sample(ask("Say")).text == "hello"
    assert len(wire.requests) == 2


@pytest.mark.parametrize(
    ("kind", "said", "finish"),
    [
        ("openai", chat("half", finish="length"), "length"),
        ("openai", chat("no", finish="content_filter"), "content_filter"),
        ("openai", chat(None, calls=CALLED, finish="stop"), "tool_calls"),
        ("anthropic", message({"type": "text", "text": "half"}, stop="max_tokens"), "length"),
        ("anthropic", message({"type": "text", "text": "no"}, stop="refusal"), "content_filter"),
    ],
)
def test_finish_reason_of_a_reply_is_read(
    make: Callable[[str], Policy], wire: Wire, kind: str, said: Answer, finish: str
) -> None:
    wire.answer = said
    assert make(kind).sample(ask("Say")).finish == finish


def test_choice_has_room_and_counts_every_attempt(make: Callable[[str], Policy], wire: Wire) -> None:
    wire.faults.append(chosen("openai", "c"))
    wire.answer = chosen("openai", "a" * 300)
    done = make("openai").sample(ask("Pick", ["a" * 300, "b"], max_tokens=1))
    assert (done.prompt_tokens, done.output_tokens) == (14, 6)
    assert wire.requests[0][2]["max_tokens"] > 300
    assert [body["seed"] for _, _, body in wire.requests] == [0, 1]
    wire.answer = chat("[" * 5000)
    with pytest.raises(EndpointError):
        make("openai").sample(ask("Pick", ["a", "b"]))


def test_thinking_is_sent_back_unchanged(make: Callable[[str], Policy], wire: Wire) -> None:
    thought = {"type": "thinking", "thinking": "I add them", "signature": "c2ln"}
    call = {"type": "tool_use", "id": "c1", "name": "add", "input": {"a": 1}}
    wire.faults.append(message(thought, {"type": "redacted_thinking", "data": "eA=="}, call, stop="tool_use"))
    policy = make("anthropic")
    talk: tuple[dict[str, Any], ...] = ({"role": "user", "content": "add"},)
    done = policy.sample(Request(talk, Sampling(), 0, tools=(TOOL,), growing=True))
    assert [block["type"] for block in done.blocks] == ["thinking", "redacted_thinking", "tool_use"]
    made = {"role": "assistant", "content": None, "blocks": done.blocks}
    result = {"role": "tool", "tool_call_id": "c1", "content": "2"}
    policy.sample(Request((*talk, made, result), Sampling(), 0, tools=(TOOL,), growing=True))
    first, second = (body["messages"] for _, _, body in wire.requests)
    assert second[1]["content"] == [thought, {"type": "redacted_thinking", "data": "eA=="}, call]
    for messages in (first, second):
        marked = [block for turn in messages for block in turn["content"] if "cache_control" in block]
        assert marked == [messages[-1]["content"][-1]]


def test_cached_tokens_are_counted(make: Callable[[str], Policy], wire: Wire) -> None:
    done = make("anthropic").sample(ask("Say"))
    assert (done.prompt_tokens, done.cached_tokens, done.cache_write_tokens) == (9, 2, 0)
    usage = {"prompt_tokens": 9, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 8}}
    wire.answer = raw(json.dumps({"choices": [{"message": {"content": "x"}}], "usage": usage}).encode())
    assert make("openai").sample(ask("Say")).cached_tokens == 8


def test_tool_arguments_that_are_no_object_are_sent_back_quoted(make: Callable[[str], Policy], wire: Wire) -> None:
    call = {"id": "c.1", "type": "function", "function": {"name": "add", "arguments": "not json"}}
    talk = ({"role": "user", "content": "x"}, {"role": "assistant", "content": None, "tool_calls": [call]})
    make("anthropic").sample(Request(talk, Sampling(), 0))
    ((_, _, body),) = wire.requests
    (block,) = body["messages"][1]["content"]
    assert block == {"type": "tool_use", "id": "c_1", "name": "add", "input": {"invalid_json": "not json"}}


def test_system_messages_are_joined_and_user_messages_merged(make: Callable[[str], Policy], wire: Wire) -> None:
    talk = (
        {"role": "system", "content": "one"},
        {"role": "user", "content": "a"},
        {"role": "user", "content": ""},
        {"role": "user", "content": "b"},
        {"role": "system", "content": "two"},
    )
    make("anthropic").sample(Request(talk, Sampling(), 0))
    ((_, _, body),) = wire.requests
    assert body["system"][0]["text"] == "one\n\ntwo"
    assert body["messages"] == [{"role": "user", "content": [{"type": "text", "text": t} for t in "ab"]}]
    assert "temperature" not in body or body["temperature"] == 1.0


@pytest.mark.parametrize(
    "cut", [message({"type": "text", "text": "half"}, cut=True), raw(b"event: ping\n", "text/event-stream")]
)
def test_interrupted_stream_is_retried(make: Callable[[str], Policy], wire: Wire, cut: Answer) -> None:
    wire.faults.append(cut)
    assert make("anthropic").sample(ask("Say")).text == "hello"
    assert len(wire.requests) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_retry_waits_as_long_as_the_server_asks(
    make: Callable[[str], Policy], wire: Wire, pauses: list[float], kind: str
) -> None:
    wire.faults.extend([error(429, retry_after="7"), error(429, retry_after="9999")])
    make(kind).sample(ask("Say"))
    assert pauses == [7.0, 30.0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fault", [error(500), reset, raw(b"{}")])
def test_retries_end_after_the_allowed_attempts(
    make: Callable[[str], Policy], wire: Wire, kind: str, fault: Answer
) -> None:
    policy = make(kind)
    wire.answer = fault
    with pytest.raises(EndpointError, match="no answer"):
        policy.sample(ask("Say"))
    assert len(wire.requests) == 4


def assert_no_key(policy: Policy, error: SiaError) -> None:
    """Check that nothing printed, logged or sent to another process holds the key."""
    shown = "".join(
        [str(error), repr(error), repr(pickle.dumps(error)), policy.digest, *traceback.format_exception(error)]
    )
    assert KEY not in shown and KEY not in repr(policy)
    assert error.__context__ is None and error.__cause__ is None, "an SDK's exception holds the request's headers"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("fault", "kind_of_error", "words"),
    [
        (error(401, f"bad key {KEY}"), PolicyError, "_API_KEY"),
        (error(403), PolicyError, "_API_KEY"),
        (error(404, "no model m"), UnknownModelError, "check the model's name"),
        (error(402), PolicyError, "cannot pay"),
        (error(400, "Your credit balance is too low"), PolicyError, "cannot pay"),
        (error(405), PolicyError, "check the address"),
        (error(400, "context too long"), RejectedRequestError, "context too long"),
        (error(413, "too large"), RejectedRequestError, "too large"),
    ],
)
def test_permanent_faults_are_not_retried(
    make: Callable[[str], Policy], wire: Wire, kind: str, fault: Answer, kind_of_error: type[SiaError], words: str
) -> None:
    policy = make(kind)
    wire.answer = fault
    with pytest.raises(kind_of_error) as refused:
        policy.sample(ask("Say"))
    assert type(refused.value) is kind_of_error
    assert words in str(refused.value)
    assert_no_key(policy, refused.value)
    assert len(wire.requests) == 1


def test_parameters_of_the_run_are_not_the_harnesss_fault(make: Callable[[str], Policy], wire: Wire) -> None:
    policy = make("openai")
    wire.answer = error(400, "Unsupported value: 0.7 is not supported with this model", param="temperature")
    with pytest.raises(PolicyError, match="does not take temperature") as refused:
        policy.sample(ask("Say", temperature=0.7))
    assert type(refused.value) is PolicyError and "temperature 1" in refused.value.hint
    wire.answer = error(400, "response_format json_schema is not supported")
    with pytest.raises(PolicyError, match="does not take response_format"):
        policy.sample(ask("Pick", ["a", "b"]))
    wire.answer = error(429, "quota", code="insufficient_quota")
    with pytest.raises(PolicyError, match="cannot pay"):
        policy.sample(ask("Say"))
    with pytest.raises(PolicyError, match="no temperature above 1"):
        make("anthropic").sample(ask("Say", temperature=1.5))
    with pytest.raises(PolicyError, match="takes no adapter"):
        policy.sample(ask("Say", adapter=Adapter("d", Path())))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["temperature_not_supported", "insufficient_quota", "model_not_found", "billing"])
def test_harness_text_quoted_by_a_server_ends_no_run(
    make: Callable[[str], Policy], wire: Wire, kind: str, name: str
) -> None:
    policy = make(kind)
    wire.answer = error(400, f"tools.0: {name} unsupported temperature: no such tool name")
    tool = {**TOOL, "function": {**TOOL["function"], "name": name, "description": "unsupported temperature"}}  # type: ignore[dict-item]
    with pytest.raises(RejectedRequestError):
        policy.sample(replace(ask("Say"), tools=(tool,)))
    with pytest.raises(PolicyError) as refused:  # Where nobody said so but the server, it counts.
        policy.sample(ask("Say"))
    assert type(refused.value) is not RejectedRequestError


def test_token_limit_is_sent_under_the_parameter_name_asked_for(make: Callable[[str], Policy], wire: Wire) -> None:
    text = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
    policy = make("openai")
    wire.faults.append(error(400, text, param="max_tokens"))
    assert [policy.sample(ask("Say", max_tokens=9)).text for _ in range(2)] == ["hello"] * 2
    names = [{"max_tokens", "max_completion_tokens"} & set(body) for _, _, body in wire.requests]
    assert names == [{"max_tokens"}, {"max_completion_tokens"}, {"max_completion_tokens"}]


@pytest.mark.parametrize(
    "text", ["This model's maximum context length is 8 tokens", "prompt is too long: 9 > 8 maximum"]
)
@pytest.mark.parametrize("kind", KINDS)
def test_request_that_is_too_long_is_rejected(make: Callable[[str], Policy], wire: Wire, kind: str, text: str) -> None:
    policy = make(kind)
    wire.answer = error(400, f"{text}; max_tokens is not supported beyond it")
    with pytest.raises(RejectedRequestError):
        policy.sample(ask("Say"))


@pytest.mark.parametrize("kind", KINDS)
def test_missing_endpoint_is_an_error(make: Callable[[str], Policy], wire: Wire, kind: str) -> None:
    make(kind)
    dead = connect(kind, "http://127.0.0.1:1", Retry(attempts=2, sleep=lambda _: None))
    with pytest.raises(EndpointError):
        dead.sample(ask("Say"))
    with pytest.raises(EndpointError):
        dead.probe()
    assert make(kind).probe() == ()


def test_requests_are_served_together(make: Callable[[str], Policy], wire: Wire) -> None:
    barrier = threading.Barrier(4)

    def together(handler: Any, body: dict[str, Any]) -> None:
        barrier.wait(20)
        chat("hello")(handler, body)

    wire.answer = together
    policy = make("openai")
    with ThreadPoolExecutor(4) as pool:
        assert [done.text for done in pool.map(lambda n: policy.sample(ask(f"{n}")), range(4))] == ["hello"] * 4
    assert wire.most == 4


def test_logged_reply_is_never_asked_for_again(make: Callable[[str], Policy], wire: Wire, tmp_path: Path) -> None:
    log = tmp_path / "replies.jsonl"
    wire.answer = lambda handler, body: chat(f"{body['messages'][0]['content']}{body['seed']}")(handler, body)
    policy = make("openai")
    first = LoggedPolicy(policy, log)
    one, two = first.sample(ask("a", seed=1)), first.sample(ask("a", seed=2))
    assert (one.text, two.text) == ("a1", "a2")
    with log.open("ab") as torn:
        torn.write(b'{"request": "torn')
    again = LoggedPolicy(policy, log)
    assert again.sample(ask("a", seed=1)) == one
    assert len(wire.requests) == 2
    assert again.sample(ask("b")).text == "b0"
    assert len(log.read_bytes().splitlines()) == 4

    replay = load_policy(f"replay:{log}")
    assert isinstance(replay, ReplayPolicy)
    assert (replay.digest, replay.trainable) == (policy.digest, False)
    assert policy_digest(f"replay:{log}") == policy.digest
    assert [replay.sample(ask("a", seed=2)), replay.sample(ask("b"))] == [two, again.sample(ask("b"))]
    with pytest.raises(PolicyError, match="no reply to request"):
        replay.sample(ask("c"))
    assert len(wire.requests) == 3
    with pytest.raises(PolicyError, match="use another file"):
        LoggedPolicy(make("anthropic"), log)
    (tmp_path / "other").write_text("not a log\n")
    with pytest.raises(PolicyError, match="not a log of replies"):
        ReplayPolicy("replay:x", tmp_path / "other")


def test_equal_requests_in_flight_are_asked_once(make: Callable[[str], Policy], wire: Wire, tmp_path: Path) -> None:
    policy = LoggedPolicy(make("openai"), tmp_path / "log")
    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda _: policy.sample(ask("same")), range(8)))
    assert {reply.text for reply in done} == {"hello"}
    assert len(wire.requests) == 1
    wire.faults.append(error(400, "no"))
    other = replace(ask("other"), seed=3)
    with pytest.raises(RejectedRequestError):
        policy.sample(other)
    assert policy.sample(other).text == "hello"
