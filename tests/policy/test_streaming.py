"""Agents' requests are streamed where the server offers it, and paid for once, by the real client libraries."""

import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sia_core.domain.errors import PolicyError
from sia_core.domain.rollout import ToolCall
from sia_core.policy.log import LoggedPolicy
from sia_core.policy.protocol import EndpointError, RejectedRequestError
from sia_core.policy.retry import Retry
from tests.factories import ask
from tests.policy.conftest import Make
from tests.policy.test_http import KINDS, assert_no_key, connect
from tests.wire.server import Answer, Wire, chat, error, message, raw, reset
from tests.wire.streams import (
    DONE,
    Step,
    call,
    chat_parts,
    chunk,
    dripping,
    error_event,
    parts,
    stream,
)

LIMIT_S = 0.4


def plain(kind: str) -> Answer:
    """The reply without a stream."""
    return chat("hello") if kind == "openai" else message_body()


def silent(over: threading.Event) -> Answer:
    """Send nothing, not even headers."""

    def answer(*_: Any) -> None:
        over.wait(20)

    return answer


def message_body() -> Answer:
    """A message of Anthropic as a single body."""
    usage = {"input_tokens": 7, "output_tokens": 3}
    body = {"type": "message", "content": [{"type": "text", "text": "hello"}], "stop_reason": "end_turn"}
    return raw(json.dumps({"id": "m", "role": "assistant", "model": "m", **body, "usage": usage}).encode())


def streamed(wire: Wire) -> list[bool]:
    """For each request, whether it asked for a stream."""
    return [bool(body.get("stream")) for _, _, body in wire.requests]


@pytest.mark.parametrize("kind", KINDS)
def test_reply_longer_than_the_limit_is_served_and_asked_for_once(make: Make, wire: Wire, kind: str) -> None:
    texts = [f"{number} " for number in range(55)]
    wire.answer = stream(dripping(parts(kind, texts), 0.05))  # Three seconds in all.
    done = make(kind, 1.0).sample(ask("Say"))
    assert (done.text, done.finish, done.prompt_tokens, done.output_tokens) == ("".join(texts), "stop", 7, 3)
    assert streamed(wire) == [True]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("begun", [False, True])
def test_silence_beyond_the_limit_is_not_asked_for_again(
    make: Make, wire: Wire, over: threading.Event, kind: str, begun: bool
) -> None:
    made: list[Step] = [*parts(kind, ["hello"])[: 3 if begun else 0], over]
    wire.answer = stream(made)
    policy = make(kind, LIMIT_S)
    with pytest.raises(EndpointError, match=r"sent nothing for 0\.4 s.*may have been paid for") as silent:
        policy.sample(ask("Say"))
    assert len(wire.requests) == 1
    assert "sia resume RUN --agent-timeout" in silent.value.hint and silent.value.where == policy.spec
    assert_no_key(policy, silent.value)


@pytest.mark.parametrize("kind", KINDS)
def test_silence_before_any_header_is_not_asked_for_again(
    make: Make, wire: Wire, over: threading.Event, kind: str
) -> None:
    wire.answer = silent(over)
    with pytest.raises(EndpointError, match="sent nothing"):
        make(kind, LIMIT_S).sample(ask("Say"))
    assert len(wire.requests) == 1


def cut_short(kind: str) -> dict[str, Answer]:
    """Streams that break off after a part of the reply, each in another way."""
    some = parts(kind, ["half", "more"])[:3]
    return {
        "connection": stream(some, cut=True),
        "end": stream(some),
        "event": stream([*some, error_event("overloaded")]),
        "nonsense": stream([*some, b"event: message_delta\ndata: {broken\n\n"]),
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["connection", "end", "event", "nonsense"])
def test_stream_that_breaks_off_is_asked_for_once_more(make: Make, wire: Wire, kind: str, how: str) -> None:
    policy = make(kind)
    wire.faults.append(cut_short(kind)[how])
    assert policy.sample(ask("Say")).text == "hello"
    assert len(wire.requests) == 2
    wire.answer = cut_short(kind)[how]
    with pytest.raises(EndpointError, match="may have been paid for and lost, and is requested twice at most") as lost:
        policy.sample(ask("Say"))
    assert len(wire.requests) == 4
    assert_no_key(policy, lost.value)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fault", [error(504), error(524), reset, raw(b'{"id": "c"'), raw(b"hello", "text/plain")])
def test_reply_that_may_have_been_made_is_asked_for_once_more(make: Make, wire: Wire, kind: str, fault: Answer) -> None:
    policy = make(kind)
    wire.answer = fault
    with pytest.raises(EndpointError, match="twice at most"):
        policy.sample(ask("Say"))
    assert len(wire.requests) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_refusal_before_the_reply_is_retried_as_ever(make: Make, wire: Wire, kind: str) -> None:
    policy = make(kind)
    wire.faults.extend([error(429), error(500), error(503), error(529), stream([error_event("overloaded")])])
    assert policy.sample(ask("Say")).text == "hello"
    assert len(wire.requests) == 6
    wire.faults.extend([error(429), cut_short(kind)["connection"], error(500), cut_short(kind)["connection"]])
    with pytest.raises(EndpointError, match="twice at most"):
        policy.sample(ask("Say"))
    assert len(wire.requests) == 10


@pytest.mark.parametrize("kind", KINDS)
def test_connection_refused_is_retried_as_ever(make: Make, kind: str) -> None:
    make(kind)
    waits: list[float] = []
    dead = connect(kind, "http://127.0.0.1:1", Retry.of_agent(5.0, waits.append))
    with pytest.raises(EndpointError) as refused:
        dead.sample(ask("Say"))
    assert len(waits) == 5
    assert "paid" not in refused.value.what


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("status", [400, 404, 422, 501])
def test_server_without_streams_is_asked_plainly_from_then_on(make: Make, wire: Wire, kind: str, status: int) -> None:
    def answer(handler: Any, body: dict[str, Any]) -> None:
        (error(status, "stream is not supported") if body.get("stream") else plain(kind))(handler, body)

    wire.answer = answer
    policy = make(kind)
    assert [policy.sample(ask("Say", seed=seed)).text for seed in (1, 2)] == ["hello", "hello"]
    assert streamed(wire) == [True] * {"openai": 2, "anthropic": 1}[kind] + [False, False]


def test_server_that_counts_no_tokens_in_streams_is_still_streamed_from(make: Make, wire: Wire) -> None:
    def answer(handler: Any, body: dict[str, Any]) -> None:
        refused = error(422, "stream_options: extra inputs are not permitted")
        (refused if "stream_options" in body else stream(chat_parts(["hello"])))(handler, body)

    wire.answer = answer
    policy = make("openai")
    assert [policy.sample(ask("Say", seed=seed)).text for seed in (1, 2)] == ["hello", "hello"]
    assert streamed(wire) == [True, True, True]
    assert ["stream_options" in body for _, _, body in wire.requests] == [True, False, False]


@pytest.mark.parametrize("kind", KINDS)
def test_body_in_place_of_a_stream_is_the_reply(make: Make, wire: Wire, kind: str) -> None:
    wire.answer = plain(kind)
    policy = make(kind)
    done = policy.sample(ask("Say", seed=1))
    assert (done.text, done.prompt_tokens, done.output_tokens) == ("hello", 7, 3)
    assert len(wire.requests) == 1, "it was paid for: asking again would be paid for twice"
    policy.sample(ask("Say", seed=2))
    assert streamed(wire) == [True, False]


@pytest.mark.parametrize("kind", KINDS)
def test_plain_reply_has_the_same_limit(make: Make, wire: Wire, over: threading.Event, kind: str) -> None:
    wire.answer = plain(kind)
    policy = make(kind, LIMIT_S)
    policy.sample(ask("Say", seed=1))
    wire.answer = silent(over)
    with pytest.raises(EndpointError, match="sent nothing"):
        policy.sample(ask("Say", seed=2))
    assert streamed(wire) == [True, False]


@pytest.mark.parametrize("kind", KINDS)
def test_request_refused_in_every_way_is_the_askers_fault(make: Make, wire: Wire, kind: str) -> None:
    policy = make(kind)
    wire.faults.extend([error(400, "prompt is too long")] * {"openai": 3, "anthropic": 2}[kind])
    with pytest.raises(RejectedRequestError, match="too long"):
        policy.sample(ask("Say"))
    asked = len(wire.requests)
    assert policy.sample(ask("Say")).text == "hello"
    assert streamed(wire)[asked:] == [True], "the way was not at fault"
    wire.answer = error(400, "prompt is too long")
    with pytest.raises(RejectedRequestError):
        policy.sample(ask("Say"))
    assert len(wire.requests) == asked + 2, "the server is known to stream"


@pytest.mark.parametrize("kind", KINDS)
def test_refused_key_is_not_asked_for_in_other_ways(make: Make, wire: Wire, kind: str) -> None:
    policy = make(kind)
    wire.answer = error(401)
    with pytest.raises(PolicyError, match="was refused"):
        policy.sample(ask("Say"))
    assert len(wire.requests) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_stream_under_a_wrong_content_type_is_read(make: Make, wire: Wire, kind: str) -> None:
    wire.answer = stream(parts(kind, ["hel", "lo"]), kind="text/plain")
    policy = make(kind)
    assert [policy.sample(ask("Say", seed=seed)).text for seed in (1, 2)] == ["hello", "hello"]
    assert streamed(wire) == [True, True]


ADD = ToolCall("c1", "add", '{"a": 1}')


def test_thinking_of_an_agent_is_kept_with_its_signature(make: Make, wire: Wire) -> None:
    thought = {"type": "thinking", "thinking": "I add them", "signature": "c2ln"}
    wire.answer = message(thought, {"type": "tool_use", "id": "c1", "name": "add", "input": {"a": 1}}, stop="tool_use")
    done = make("anthropic").sample(ask("Say"))
    assert done.blocks[0] == thought
    assert done.tool_calls == (ADD,)


@pytest.mark.parametrize("kind", KINDS)
def test_progress_counts_characters_from_each_attempt_on(make: Make, wire: Wire, kind: str) -> None:
    seen: list[int] = []
    policy = make(kind)
    wire.faults.append(stream(parts(kind, ["half", "more"])[:3], cut=True))
    request = replace(ask("Say"), on_progress=seen.append)
    assert policy.sample(request).text == "hello"
    lost = {"openai": [0, 4, 8], "anthropic": [0, 4]}[kind]
    assert seen == [*lost, 0, 3, 5]
    assert request.key == ask("Say").key and request == ask("Say")


def test_progress_counts_arguments_and_thinking(make: Make, wire: Wire) -> None:
    seen: list[int] = []
    deltas = [{"reasoning_content": "hm"}, call(0, id="c1", name="add", arguments='{"a": 1}')]
    wire.answer = stream([*map(chunk, deltas), chunk({}, "tool_calls"), DONE])
    make("openai").sample(replace(ask("Say"), on_progress=seen.append))
    assert seen[-1] == len("hm" + ADD.arguments)
    thought = {"type": "thinking", "thinking": "I add them", "signature": "c2ln"}
    wire.answer = message(thought, {"type": "text", "text": "hello"})
    make("anthropic").sample(replace(ask("Say"), on_progress=seen.append))
    assert seen[-1] == len("I add them" + "hello")


@pytest.mark.parametrize("kind", KINDS)
def test_error_of_a_listener_is_not_taken_for_the_servers(make: Make, wire: Wire, kind: str) -> None:
    def listen(characters: int) -> None:
        if characters:
            raise ValueError("the terminal is gone")

    policy = make(kind)
    with pytest.raises(ValueError, match="terminal is gone"):
        policy.sample(replace(ask("Say"), on_progress=listen))
    assert len(wire.requests) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_replies_that_came_before_a_silence_are_not_asked_for_again(
    make: Make, wire: Wire, over: threading.Event, tmp_path: Path, kind: str
) -> None:
    policy = make(kind, LIMIT_S)
    first = LoggedPolicy(policy, tmp_path / "agent.jsonl")
    kept = first.sample(ask("one"))
    wire.faults.append(stream([over]))
    with pytest.raises(EndpointError):
        first.sample(ask("two"))
    resumed = LoggedPolicy(policy, tmp_path / "agent.jsonl")
    assert resumed.sample(ask("one")) == kept
    assert resumed.sample(ask("two")).text == "hello"
    assert len(wire.requests) == 3


def test_rollouts_of_chat_completions_are_not_streamed(make: Make, wire: Wire) -> None:
    make("openai")
    wire.answer = chat("hello")
    policy = connect("openai", wire.url, Retry(attempts=2, sleep=lambda _: None))
    assert policy.sample(ask("Say")).text == "hello"
    wire.faults.append(error(400, "no"))
    with pytest.raises(RejectedRequestError):
        policy.sample(ask("Say"))
    assert streamed(wire) == [False, False]


def test_rollouts_of_messages_are_always_streamed(make: Make, wire: Wire) -> None:
    make("anthropic")
    wire.answer = message_body()
    policy = connect("anthropic", wire.url, Retry(attempts=2, sleep=lambda _: None))
    assert [policy.sample(ask("Say", seed=seed)).text for seed in (1, 2)] == ["hello", "hello"]
    assert streamed(wire) == [True, True]
