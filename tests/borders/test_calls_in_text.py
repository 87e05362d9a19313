"""Calls that a model writes as text, because its server has no parser, are read for agents and for no one else."""

import json
from pathlib import Path

import pytest

from sia_core.agents.protocol import NoDecisionError
from sia_core.agents.written_calls import written_calls
from sia_core.domain.rollout import Sampling
from sia_core.policy.protocol import Request
from sia_core.policy.retry import Retry
from tests.agents.test_llm import GOOD
from tests.borders.talks import body, call, message, plain, submit, talking
from tests.policy.test_http import TOOL, connect
from tests.wire.server import Answer, serve
from tests.wire.streams import DONE, chunk, stream

DECISION = json.dumps({"name": "submit_decision", "arguments": GOOD})
LOOK = '{"name": "list_nodes", "arguments": {}}'
FORMS = {
    "tag": "<tool_call>CALL</tool_call>",
    "tag on lines": "I look.\n<tool_call>\nCALL\n</tool_call>",
    "json": "I call it:\n```json\nCALL\n```",
    "tool_call": "```tool_call\nCALL\n```",
    "fence": "```\nCALL\n```\nThat is all.",
    "bare": "CALL",
    "thought first": '<think>perhaps <tool_call>{"name": "list_nodes", "arguments": {}}</tool_call></think>\nCALL',
    "list": "```json\n[CALL]\n```",
    "function": '```json\n{"type": "function", "function": CALL}\n```',
}


def said(kind: str, text: str) -> Answer:
    """A reply that is nothing but text."""
    told = {"type": "text", "text": text}
    return plain(body(text, finish="stop") if kind == "openai" else message(told, stop="end_turn"))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["openai", "anthropic"])
def test_call_in_text_is_read(tmp_path: Path, kind: str, form: str) -> None:
    with talking(kind, tmp_path) as talk:
        looks, decides = (said(kind, FORMS[form].replace("CALL", text)) for text in (LOOK, DECISION))
        made = talk.decide(looks, decides)
        assert made.lever == "harness" and len(talk.bodies) == 2
        assert '<tool_response name=\\"list_nodes\\">' in talk.texts
        assert "tool_use" not in talk.texts and "tool_calls" not in talk.texts
        notes = [note.partition("written as text, and read: ")[2] for note in talk.records[0]["notes"]]
        assert notes == ["list_nodes", "submit_decision"]
        assert talk.decide() == made and len(talk.bodies) == 2


def test_call_in_a_streamed_text_is_read(tmp_path: Path) -> None:
    parts = [chunk({"content": part}) for part in ("<tool", "_call>", DECISION[:30], DECISION[30:], "</tool_call>")]
    with talking("openai", tmp_path) as talk:
        assert talk.decide(then=stream([*parts, chunk({}, "stop"), DONE])).lever == "harness"


def test_invalid_submission_in_text_comes_back_with_its_faults(tmp_path: Path) -> None:
    wrong = json.dumps({"name": "submit_decision", "arguments": {**GOOD, "parent": 7}})
    with talking("openai", tmp_path) as talk:
        talk.decide(plain(body(f"<tool_call>{wrong}</tool_call>", finish="stop")), plain(submit()))
        assert "no node 7" in talk.texts and len(talk.records[0]["not_taken"]) == 1


@pytest.mark.parametrize(
    "text",
    [
        "I would call submit_decision with lever stop.",
        '<tool_call>{"name": "fly", "arguments": {}}</tool_call>',
        '```json\n{"name": "h", "version": 1}\n```',
        '```json\n{"name": "list_nodes"}\n```',
        '```python\n{"name": "list_nodes", "arguments": {}}\n```',
        '<tool_call>{"name": "list_nodes", "arguments": {}',
        "<tool_call>{oops}</tool_call>",
        '{"name": 5, "arguments": {}}',
        '<think>{"name": "list_nodes", "arguments": {}}</think>',
        "[" * 50_000,
    ],
)
def test_text_that_only_looks_like_a_call_is_not_run(tmp_path: Path, text: str) -> None:
    with talking("openai", tmp_path) as talk:
        talk.decide(plain(body(text, finish="stop")), plain(submit()))
        assert "Call a tool, or submit_decision" in talk.texts and talk.records[0]["notes"] == []


def test_call_in_text_beside_a_structured_call_is_not_read(tmp_path: Path) -> None:
    stop = json.dumps({"name": "submit_decision", "arguments": {**GOOD, "lever": "stop"}})
    with talking("openai", tmp_path) as talk:
        made = talk.decide(plain(body(f"<tool_call>{stop}</tool_call>", call("list_nodes", "{}"))), plain(submit()))
        assert made.lever == "harness"


def test_call_in_a_text_that_was_cut_is_not_read(tmp_path: Path) -> None:
    with talking("openai", tmp_path) as talk:
        talk.decide(plain(body(f"<tool_call>{DECISION}</tool_call>", finish="length")), plain(submit()))
        assert "was cut at" in talk.texts and len(talk.bodies) == 2


def test_call_in_a_refused_text_is_not_read(tmp_path: Path) -> None:
    with talking("openai", tmp_path) as talk, pytest.raises(NoDecisionError, match="refused to answer"):
        talk.decide(then=plain(body(f"<tool_call>{DECISION}</tool_call>", finish="content_filter")))


def test_several_calls_in_text_are_answered_in_one_message(tmp_path: Path) -> None:
    two = f"<tool_call>{LOOK}</tool_call>\n<tool_call>{LOOK.replace('list_nodes', 'lever_memory')}</tool_call>"
    with talking("openai", tmp_path) as talk:
        talk.decide(plain(body(two, finish="stop")), plain(submit()))
        assert [one["role"] for one in talk.bodies[-1]["messages"]] == ["system", "user", "assistant", "user"]
        assert talk.texts.count("<tool_response") == 2


@pytest.mark.parametrize("kind", ["openai", "anthropic"])
def test_text_of_a_policy_is_never_read_as_a_call(kind: str) -> None:
    text = '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>'
    with serve() as wire:
        wire.answer = said(kind, text)
        policy = connect(kind, wire.url, Retry.of_agent(5.0))
        done = policy.sample(Request(({"role": "user", "content": "x"},), Sampling(), 0, tools=(TOOL,)))
    assert (done.text, done.tool_calls, done.finish) == (text, (), "stop")


@pytest.mark.parametrize("arguments", ['"{}"', "null", '{"a": 1}', "[]", "5"])
def test_arguments_in_text_take_any_form(arguments: str) -> None:
    (found,) = written_calls(f'{{"name": "f", "parameters": {arguments}}}', ["f"])
    assert found.name == "f" and isinstance(found.arguments, str)
