"""Refusals and content filters end a conversation by that name, and thinking goes back to the server that sent it."""

import json
from pathlib import Path
from typing import Any

import pytest

from sia_core.agents.protocol import NoDecisionError
from sia_core.engine.wire_formats import write_chat
from sia_core.policy.openai_shapes import sendable
from sia_core.policy.retry import Retry
from tests.borders.talks import body, call, message, plain, submit, talking, use
from tests.factories import ask
from tests.policy.test_http import connect
from tests.wire.server import Answer, error, serve
from tests.wire.server import message as streamed
from tests.wire.streams import DONE, chunk, stream

NO = "I cannot help with that."
REFUSALS: dict[str, tuple[str, Answer]] = {
    "refusal": ("openai", plain(body(None, finish="stop", refusal=NO))),
    "refusal beside a call": ("openai", plain(body(None, call(), refusal=NO))),
    "refusal as a part": ("openai", plain(body([{"type": "refusal", "refusal": NO}], finish="stop"))),
    "content_filter": ("openai", plain(body(NO, finish="content_filter"))),
    "SAFETY": ("openai", plain(body(NO, finish="SAFETY"))),
    "sensitive": ("openai", plain(body(NO, finish="sensitive"))),
    "streamed refusal": ("openai", stream([chunk({"refusal": NO[:9]}), chunk({"refusal": NO[9:]}, "stop"), DONE])),
    "streamed filter": ("openai", stream([chunk({"content": NO}), chunk({}, "content_filter"), DONE])),
    "anthropic": ("anthropic", plain(message({"type": "text", "text": NO}, stop="refusal"))),
    "anthropic beside a call": ("anthropic", plain(message({"type": "text", "text": NO}, use(), stop="refusal"))),
    "anthropic streamed": ("anthropic", streamed({"type": "text", "text": NO}, stop="refusal")),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusal_ends_the_conversation_at_once_by_that_name(tmp_path: Path, name: str) -> None:
    kind, answer = REFUSALS[name]
    with talking(kind, tmp_path) as talk:
        with pytest.raises(NoDecisionError, match=r"the model refused to answer \(content_filter\): I cannot help"):
            talk.decide(then=answer)
        assert len(talk.bodies) == 1
        assert talk.records[0]["usage"]["requests"] == 1


def test_filter_without_a_text_is_named_too(tmp_path: Path) -> None:
    with talking("openai", tmp_path) as talk, pytest.raises(NoDecisionError, match="by a content filter"):
        talk.decide(then=plain(body(None, finish="content_filter")))


def test_prompt_that_a_provider_filters_is_not_sent_again(tmp_path: Path) -> None:
    filtered = error(400, "The response was filtered by the content management policy", code="content_filter")
    with talking("openai", tmp_path) as talk:
        with pytest.raises(NoDecisionError, match="content_filter"):
            talk.decide(plain(body(None, call("list_nodes", "{}"))), then=filtered)
        assert not any("<tool_call>" in json.dumps(sent["messages"]) for sent in talk.bodies)


@pytest.mark.parametrize("name", REFUSALS)
def test_refused_reply_of_a_policy_is_recorded_as_content_filter(name: str) -> None:
    kind, answer = REFUSALS[name]
    with serve() as wire:
        wire.answer = answer
        policy = connect(kind, wire.url, Retry.of_agent(5.0, sleep=lambda _: None))
        done = policy.sample(ask("x"))
    assert done.finish == "content_filter" and done.text == NO
    assert write_chat("k", [done])["choices"][0]["finish_reason"] == "content_filter"


@pytest.mark.parametrize("field", [{"refusal": None}, {"refusal": ""}])
def test_empty_refusal_field_is_no_refusal(tmp_path: Path, field: dict[str, Any]) -> None:
    with talking("openai", tmp_path) as talk:
        assert talk.decide(then=plain(body(None, call(), **field))).lever == "harness"


# Thinking on OpenAI's wire.
THOUGHTS: list[dict[str, Any]] = [
    {"reasoning_content": "I look"},
    {"reasoning": "I look"},
    {"thinking": "I look"},
    {"reasoning": "I look", "reasoning_details": [{"type": "reasoning.text", "text": "I look", "signature": "s"}]},
]


@pytest.mark.parametrize("thought", THOUGHTS, ids="+".join)
@pytest.mark.parametrize("way", ["plain", "stream"])
def test_thinking_goes_back_under_the_servers_own_name(tmp_path: Path, thought: dict[str, Any], way: str) -> None:
    made = call("list_nodes", "{}")
    if way == "plain":
        first = plain(body(None, made, **thought))
    else:
        pieces = [{name: value[:3] if isinstance(value, str) else value for name, value in thought.items()}]
        pieces += [{name: value[3:] for name, value in thought.items() if isinstance(value, str)}]
        first = stream([*map(chunk, pieces), chunk({"tool_calls": [{"index": 0, **made}]}, "tool_calls"), DONE])
    with talking("openai", tmp_path) as talk:
        talk.decide(first, plain(submit()))
        sent = talk.bodies[-1]["messages"][2]
        assert {name: sent.get(name) for name in thought} == thought
        assert "blocks" not in sent
        again = talk.decide()
        assert again.lever == "harness" and len(talk.bodies) == 2


def test_streamed_details_of_thinking_are_joined(tmp_path: Path) -> None:
    def detail(**fields: Any) -> bytes:
        return chunk({"reasoning_details": [{"type": "reasoning.text", "index": 0, **fields}]})

    made = chunk({"tool_calls": [{"index": 0, **call("list_nodes", "{}")}]}, "tool_calls")
    with talking("openai", tmp_path) as talk:
        talk.decide(
            stream([detail(text="I "), detail(text="look"), detail(signature="s"), made, DONE]), plain(submit())
        )
        (sent,) = talk.bodies[-1]["messages"][2]["reasoning_details"]
        assert sent == {"type": "reasoning.text", "index": 0, "text": "I look", "signature": "s"}


def test_thinking_of_turns_before_the_last_user_message_is_dropped() -> None:
    def said(text: str) -> dict[str, Any]:
        return {"role": "assistant", "content": text, "thinking": {"reasoning_content": text}}

    messages = sendable([{"role": "user", "content": "a"}, said("old"), {"role": "user", "content": "b"}, said("new")])
    assert [one.get("reasoning_content") for one in messages] == [None, None, None, "new"]
    assert not any("thinking" in one for one in messages)


@pytest.mark.parametrize("kind", ["openai", "anthropic"])
def test_server_without_thinking_is_sent_none(tmp_path: Path, kind: str) -> None:
    first = body(None, call("list_nodes", "{}")) if kind == "openai" else message(use("list_nodes", {}))
    last = submit() if kind == "openai" else message(use(id="c2"))
    with talking(kind, tmp_path) as talk:
        talk.decide(plain(first), plain(last))
        assert not any(name in talk.texts for name in ("reasoning", "thinking"))


@pytest.mark.parametrize("value", ["NaN", "[1e999]", '{"a": -Infinity}'])
def test_thinking_that_no_record_holds_is_left_out(tmp_path: Path, value: str) -> None:
    sent = json.dumps(body(None, call("list_nodes", "{}"), reasoning_details="HERE")).replace('"HERE"', value)
    with talking("openai", tmp_path) as talk:
        talk.decide(plain(sent.encode()), plain(submit()))
        assert "reasoning_details" not in talk.bodies[-1]["messages"][2]


def test_server_that_refuses_its_own_thinking_is_sent_text(tmp_path: Path) -> None:
    def answer(handler: Any, sent: dict[str, Any]) -> None:
        if any("reasoning_content" in one for one in sent["messages"]):
            handler.send_json({"error": {"message": "reasoning_content is unsupported"}}, 400)
        else:
            plain(submit())(handler, sent)

    with talking("openai", tmp_path) as talk:
        first = plain(body(None, call("list_nodes", "{}"), reasoning_content="hm"))
        assert talk.decide(first, then=answer).lever == "harness"
