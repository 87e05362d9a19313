"""Histories that are sent to a server are well formed, whatever the model's replies were made of."""

import json
from pathlib import Path
from typing import Any

import pytest

from sia_core.agents.conversation import Allowance
from sia_core.agents.meta import Brief, MetaAgent
from sia_core.agents.protocol import NoDecisionError
from sia_core.domain.harness import Harness
from sia_core.domain.rollout import Sampling, ToolCall
from sia_core.policy.calls import arguments_object, well_formed, with_ids
from sia_core.policy.protocol import Request
from sia_core.policy.retry import Retry
from tests.agents.sources import MemorySource
from tests.agents.test_llm import GOOD, Lenient
from tests.borders.talks import Talk, body, call, message, plain, strict, submit, talking, use
from tests.policy.test_http import TOOL, connect
from tests.wire.server import Answer, error, serve
from tests.wire.server import message as streamed
from tests.wire.streams import DONE, chunk, stream

INVALID = [
    "{oops",
    '{"a": ',
    "not json",
    "[1, 2]",
    '"text"',
    "12",
    "{'a': 1}",
    '{"a": NaN}',
    '{"a": "\\ud800"}',
    "[" * 5000,
]


def fault(sent: dict[str, Any]) -> str:
    """Say what a strict server would refuse in a history of chat completions."""
    ids: set[str] = set()
    open_calls: list[str] = []
    for one in sent["messages"]:
        for made in one.get("tool_calls", ()):
            function = made["function"]
            try:
                given = json.loads(function["arguments"], parse_constant=int)
            except (ValueError, TypeError):
                return f"arguments: {function['arguments']!r}"
            if not isinstance(given, dict) or not function["name"].replace("_", "a").isalnum():
                return f"call: {function}"
            if not made["id"] or made["id"] in ids:
                return f"id: {made['id']!r}"
            ids.add(made["id"])
            open_calls.append(made["id"])
        if one["role"] == "tool":
            if one["tool_call_id"] not in open_calls:
                return f"answer to {one['tool_call_id']!r}"
            open_calls.remove(one["tool_call_id"])
        elif one["role"] != "assistant" and open_calls:
            return f"no answer to {open_calls}"
        if not isinstance(one.get("content"), str) and not one.get("tool_calls"):
            return "content"
    return ""


def refused(sent: dict[str, Any]) -> str:
    """Say what Anthropic's API would refuse in a history."""
    ids: set[str] = set()
    for one in sent["messages"]:
        for block in one["content"]:
            if block["type"] == "text" and not block["text"].strip():
                return "text content blocks must contain non-whitespace text"
            if block["type"] == "tool_use":
                if not isinstance(block["input"], dict) or not block["name"] or block["id"] in ids:
                    return f"tool_use: {block}"
                ids.add(block["id"])
            if block["type"] == "tool_result" and block["tool_use_id"] not in ids:
                return f"tool_result: {block['tool_use_id']}"
        if one["role"] == "assistant" and one["content"][-1]["type"] in ("thinking", "redacted_thinking"):
            return "the final block may not be thinking"
    return ""


@pytest.mark.parametrize("arguments", INVALID, ids=lambda text: text[:9])
def test_call_that_is_not_json_is_sent_back_as_json(tmp_path: Path, arguments: str) -> None:
    with talking("openai", tmp_path) as talk:
        then = [plain(body(None, call("list_nodes", arguments))), plain(submit())]
        assert talk.decide(then=strict(then, fault)).lever == "harness"
        *_, made, answer = talk.bodies[-1]["messages"]
        (sent,) = made["tool_calls"]
        assert json.loads(sent["function"]["arguments"]) == {"invalid_json": arguments}
        assert answer["content"].startswith("error: the arguments are")


@pytest.mark.parametrize(
    "arguments",
    [None, {}, "", " ", "null", "{}", '"{}"', '{"offset": 0}', {"offset": 0}, '"{\\"offset\\": 0}"'],
    ids=repr,
)
def test_arguments_in_another_form_are_taken(tmp_path: Path, arguments: Any) -> None:
    with talking("openai", tmp_path) as talk:
        then = [plain(body(None, call("list_nodes", arguments))), plain(submit())]
        talk.decide(then=strict(then, fault))
        assert not str(talk.bodies[-1]["messages"][-1]["content"]).startswith("error")
        assert len(talk.bodies) == 2


@pytest.mark.parametrize("arguments", [[], [1], [GOOD], 5, True, "[]"], ids=repr)
def test_arguments_that_are_no_object_are_refused_in_words(tmp_path: Path, arguments: Any) -> None:
    with talking("openai", tmp_path) as talk:
        then = [plain(body(None, call("list_nodes", arguments))), plain(submit())]
        talk.decide(then=strict(then, fault))
        assert "give a JSON object of named arguments" in talk.texts


@pytest.mark.parametrize(
    "ids", [(None, None), ("", ""), ("c", "c"), (0, 0), (None, "c"), ("call_0", "call_0")], ids=repr
)
def test_ids_of_calls_are_made_unique(tmp_path: Path, ids: tuple[Any, Any]) -> None:
    two = body(None, *(call("list_nodes", "{}", number) for number in ids))
    with talking("openai", tmp_path) as talk:
        talk.decide(then=strict([plain(two), plain(two), plain(submit())], fault))
        sent = [one["id"] for turn in talk.bodies[-1]["messages"] for one in turn.get("tool_calls", ())]
        assert len(sent) == len(set(sent)) == 4 and all(sent)
        again = talk.decide()
        assert again.lever == "harness" and len(talk.bodies) == 3, "ids are the same in a resumed run"


@pytest.mark.parametrize("name", [None, "", "list nodes", "a.b/c", "x" * 300, "ä"], ids=repr)
def test_call_without_a_usable_name_is_answered_and_sent_back(tmp_path: Path, name: Any) -> None:
    with talking("openai", tmp_path) as talk:
        then = [plain(body(None, call(name, "{}"))), plain(submit())]
        talk.decide(then=strict(then, fault))
        assert "error: no tool" in talk.texts


@pytest.mark.parametrize(
    "function", [{"function": None}, {"function": {}}, {"name": "list_nodes", "arguments": "{}"}, {"type": "function"}]
)
def test_call_without_a_function_ends_nothing(tmp_path: Path, function: dict[str, Any]) -> None:
    with talking("openai", tmp_path) as talk:
        talk.decide(then=strict([plain(body(None, {"id": "c", **function})), plain(submit())], fault))
        assert len(talk.bodies) == 2


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "text", "text": "I "}, {"type": "text", "text": "look"}],
        [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "I look"}],
        ["I ", "look"],
        {"type": "text", "text": "I look"},
        [{"type": "output_text", "text": "I look"}, None, 5],
    ],
)
@pytest.mark.parametrize("way", ["plain", "stream"])
def test_content_in_parts_is_read_as_its_text(tmp_path: Path, content: Any, way: str) -> None:
    calls = call("list_nodes", "{}")
    parts = stream([chunk({"content": content}), chunk({"tool_calls": [{"index": 0, **calls}]}, "tool_calls"), DONE])
    with talking("openai", tmp_path) as talk:
        then = [plain(body(content, calls)) if way == "plain" else parts, plain(submit())]
        talk.decide(then=strict(then, fault))
        assert talk.bodies[-1]["messages"][2]["content"] == "I look"


@pytest.mark.parametrize("text", ["", " \n", "said"])
@pytest.mark.parametrize("way", ["plain", "stream"])
def test_empty_text_beside_thinking_is_not_sent_back(tmp_path: Path, text: str, way: str) -> None:
    thought = {"type": "thinking", "thinking": "hm", "signature": "c2ln"}
    blocks = [thought, {"type": "text", "text": text}, use("list_nodes", {})]
    first: Answer = plain(message(*blocks)) if way == "plain" else streamed(*blocks, stop="tool_use")
    with talking("anthropic", tmp_path) as talk:
        talk.decide(then=strict([first, plain(message(use()))], refused))
        assert talk.bodies[-1]["messages"][1]["content"][0] == thought


def test_reply_of_thinking_alone_is_left_out_of_the_history(tmp_path: Path) -> None:
    thought = {"type": "thinking", "thinking": "hm", "signature": "c2ln"}
    with talking("anthropic", tmp_path) as talk:
        then = [plain(message(thought, stop="end_turn")), plain(message(use(id="c2")))]
        assert talk.decide(then=strict(then, refused)).lever == "harness"


@pytest.mark.parametrize("given", [None, [], "x", [1], 5, {"offset": 0}], ids=repr)
@pytest.mark.parametrize("thinks", [False, True])
def test_inputs_of_anthropics_wire_are_sent_back_as_objects(tmp_path: Path, given: Any, thinks: bool) -> None:
    blocks = [use("list_nodes", given, "a.b"), use("list_nodes", {}, "a.b"), use("", {}, "")]
    thought = [{"type": "thinking", "thinking": "hm", "signature": "c2ln"}] if thinks else []
    with talking("anthropic", tmp_path) as talk:
        then = [plain(message(*thought, *blocks)), plain(message(use(id="z")))]
        assert talk.decide(then=strict(then, refused)).lever == "harness"


def test_invalid_arguments_in_a_stream_of_anthropic_are_an_answer(tmp_path: Path) -> None:
    def event(kind: str, **fields: Any) -> bytes:
        return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()

    parts = [
        event("message_start", message=message(stop=None)),
        event("content_block_start", index=0, content_block=use("list_nodes", {})),
        event("content_block_delta", index=0, delta={"type": "input_json_delta", "partial_json": '{"offset": }'}),
        event("content_block_stop", index=0),
        event("message_delta", delta={"stop_reason": "tool_use"}, usage={"output_tokens": 3}),
        event("message_stop"),
    ]
    with talking("anthropic", tmp_path) as talk:
        talk.decide(then=strict([stream(parts), plain(message(use(id="z")))], refused))
        assert "the arguments are not JSON" in talk.texts and len(talk.bodies) == 2


@pytest.mark.parametrize("kind", ["openai", "anthropic"])
def test_invalid_call_of_a_harness_is_sent_on_well_formed(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = {"id": "c1", "type": "function", "function": {"name": "", "arguments": "{oops"}}
    talk: tuple[dict[str, Any], ...] = (
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": None, "tool_calls": [made]},
        {"role": "tool", "tool_call_id": "c1", "content": "no"},
    )
    with serve() as wire:
        wire.answer = plain(body("y", finish="stop") if kind == "openai" else message({"type": "text", "text": "y"}))
        policy = connect(kind, wire.url, Retry(attempts=1))
        if kind == "anthropic":
            monkeypatch.setattr(policy, "_ways", connect(kind, wire.url, Retry.of_agent(5.0))._ways)  # type: ignore[attr-defined]
        policy.sample(Request(talk, Sampling(), 0, tools=(TOOL,)))
        assert (fault if kind == "openai" else refused)(wire.requests[0][2]) == ""


def no_calls(sent: dict[str, Any]) -> str:
    """Refuse every history that holds a call."""
    return "template error" if any(one.get("tool_calls") for one in sent["messages"]) else ""


def test_server_that_refuses_calls_in_a_history_is_sent_text(tmp_path: Path) -> None:
    with talking("openai", tmp_path) as talk:
        then = [
            plain(body("I look", call("list_nodes", "{}"))),
            plain(body(None, call("lever_memory"))),
            plain(submit()),
        ]
        made = talk.decide(then=strict(then, no_calls))
        assert made.lever == "harness"
        roles = [one["role"] for one in talk.bodies[-1]["messages"]]
        assert roles == ["system", "user", "assistant", "user", "assistant", "user"]
        assert '<tool_call>\n{"name": "list_nodes", "arguments": {}}' in talk.bodies[-1]["messages"][2]["content"]
        assert any("calls are sent as text" in note for note in talk.records[0]["notes"])
        paid = len(talk.bodies)
        assert talk.decide(then=strict([], no_calls)) == made
        again = talk.bodies[paid:]
        assert again and all(no_calls(sent) for sent in again), "a resume asks again what was refused, and pays nothing"


def test_resume_leaves_a_refused_history_once_the_server_takes_it(tmp_path: Path) -> None:
    with talking("openai", tmp_path) as talk:
        with pytest.raises(NoDecisionError, match=r"refused the conversation: refused \(400\): .*broken template"):
            talk.decide(plain(body(None, call("list_nodes", "{}"))), then=error(400, "broken template"))
        sent = len(talk.bodies)
        assert talk.decide(then=plain(submit())).lever == "harness"
        assert len(talk.bodies) == sent + 1, "only the refused turn is requested again"


def test_refusal_of_the_first_request_is_not_asked_again_as_text(tmp_path: Path) -> None:
    with talking("openai", tmp_path) as talk, pytest.raises(NoDecisionError, match="no tools here"):
        talk.decide(then=error(400, "no tools here"))
    assert len(talk.bodies) <= 3


def test_first_harness_that_failed_is_begun_again_as_a_new_conversation(tmp_path: Path) -> None:
    def write(talk: Talk, attempt: int) -> Harness:
        agent = MetaAgent("openai:m", talk.model(), allowance=Allowance(turns=2), price=None, keep=kept)
        return agent.write(Brief("t", "m", [], "page", MemorySource(), attempt=attempt), Lenient())

    numbers: list[int] = []

    def kept(_: int, number: int, __: Any) -> None:
        numbers.append(number)

    files = [{"file": "agent.py", "text": "X = 1\n"}, {"file": "harness.toml", "text": 'name = "h"\n'}]
    good = json.dumps({"files": files, "reasoning": "r"})
    with talking("openai", tmp_path) as talk:
        talk.wire.answer = plain(body("hm", finish="stop"))
        for _ in range(2):
            with pytest.raises(NoDecisionError, match="no decision in 2 turns"):
                write(talk, 0)
        assert len(talk.bodies) == 2, "the same attempt replays its end"
        talk.wire.answer = plain(body(None, call("submit_harness", good)))
        assert write(talk, 1).files["agent.py"] == b"X = 1\n"
        assert numbers == [0, 0, 1], "each attempt is charged"


@pytest.mark.parametrize("text", ["{}", "", " ", "null", '"{}"', '"null"'])
def test_missing_arguments_are_an_empty_object(text: str) -> None:
    assert arguments_object(text) == {} and json.loads(well_formed(text)) == {}


def test_valid_arguments_are_sent_back_unchanged() -> None:
    text = '{ "b": 1.50,  "a": "\\u00e4" }'
    assert well_formed(text) == text


def test_made_ids_follow_from_the_request_alone() -> None:
    calls = [ToolCall("", "a", "{}"), ToolCall("x", "a", "{}"), ToolCall("x", "a", "{}")]
    assert [one.id for one in with_ids(calls, "k" * 64)] == ["call_kkkkkkkkkkkk_0", "x", "call_kkkkkkkkkkkk_2"]


@pytest.mark.parametrize("way", ["plain", "stream"])
def test_half_of_a_surrogate_pair_in_a_reply_is_replaced(tmp_path: Path, way: str) -> None:
    made = call("list_nodes", "{}")
    sent = body("h\ud83d", made)
    parts = stream([chunk({"content": "h\ud83d", "tool_calls": [{"index": 0, **made}]}, "tool_calls"), DONE])
    with talking("openai", tmp_path) as talk:
        talk.decide(plain(sent) if way == "plain" else parts, then=plain(submit()))
        assert talk.bodies[-1]["messages"][2]["content"] == "h\ufffd" and len(talk.bodies) == 2
