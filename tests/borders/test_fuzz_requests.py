"""No request to the gateway's wire formats or to `sia serve` ends in anything but an answer or a refusal."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from sia_core.engine.budget import RefusedError
from sia_core.engine.wire_formats import read_chat, read_choose, read_messages
from sia_core.engine.wire_shapes import Chat, Choose, Messages
from sia_core.export.inference import Inference
from sia_core.export.manifest import Export
from sia_core.export.serve import build_app
from sia_core.policy.scripted import ScriptedPolicy
from tests.borders.mutations import FEW, MANY
from tests.export.makers import make_export


def table(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.dictionaries(st.text(max_size=6) | st.sampled_from(["type", "text", "name", "role"]), values, max_size=3)


WORDS = ("", "text", "user", "assistant", "tool", "auto", "none", "function", "policy", "agent", "\ud800")
leaf = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(WORDS)
anything = st.recursive(leaf, lambda inner: st.lists(inner, max_size=3) | table(inner), max_leaves=8)


def like(valid: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Tables that are mostly as `valid`, with any of the fields replaced by anything or left out."""
    fields = {name: st.one_of(*[st.just(value)] * 3, anything) for name, value in valid.items()}
    return st.fixed_dictionaries({}, optional=fields)


part = like({"type": "text", "text": "a"}) | like({"type": "refusal", "refusal": "a"})
content = st.text(max_size=5) | st.none() | st.lists(part, max_size=2)
function = like({"name": "f", "arguments": "{}"})
call = st.builds(lambda made, inner: {**made, "function": inner}, like({"id": "1", "type": "function"}), function)
message = st.builds(
    lambda made, text, calls: {**made, "content": text, **({"tool_calls": calls} if calls else {})},
    like({"role": "user", "refusal": None, "tool_call_id": "1", "name": "n", "audio": None, "annotations": []}),
    content,
    st.none() | st.lists(call | anything, max_size=2),
)
tool = st.builds(lambda inner: {"type": "function", "function": inner}, like({"name": "f", "parameters": {}}))
block = like({"type": "text", "text": "a", "id": "1", "name": "f", "input": {}, "tool_use_id": "1", "content": "c"})
block |= like({"type": "tool_use", "id": "1", "name": "f", "input": {}})
anthropic_message = st.builds(
    lambda made, blocks: {**made, "content": blocks},
    like({"role": "user"}),
    st.text(max_size=5) | st.lists(block | anything, max_size=2),
)


def body(
    shape: type[Any], messages: st.SearchStrategy[Any], more: dict[str, Any] | None = None
) -> st.SearchStrategy[Any]:
    """Bodies with messages, and any of the other known fields."""
    known = [name for name in (*shape.model_fields, *(more or {})) if name != "messages"]
    extra = st.dictionaries(st.sampled_from(known), anything | st.lists(tool, max_size=2), max_size=4)
    lists = st.lists(messages, max_size=3) | anything
    return st.builds(lambda made, other: {"messages": made, **(more or {}), **other}, lists, extra)


chats = body(Chat, message | anything) | anything
choices = body(Choose, message, {"options": ["a", "b"]}) | anything
messages_bodies = body(Messages, anthropic_message, {"max_tokens": 9}) | anything


def only_refused(read: Any, given_body: Any) -> None:
    try:
        ask = read(given_body)
    except RefusedError as error:
        refused = str(error)
    else:
        assert ask.messages and all(isinstance(one, dict) for one in ask.messages) and ask.n >= 1
        return
    assert refused and "Input should" not in refused


@FEW
@given(chats)
def test_chat_is_read_or_refused(made: Any) -> None:
    only_refused(read_chat, made)


@FEW
@given(choices)
def test_choice_is_read_or_refused(made: Any) -> None:
    only_refused(read_choose, made)


@FEW
@given(messages_bodies)
def test_anthropic_message_is_read_or_refused(made: Any) -> None:
    only_refused(read_messages, made)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """`sia serve` of an export, without a sandbox; exceptions of the server are raised here."""
    inference = Inference(Export.load(make_export(tmp_path_factory.mktemp("export"))), ScriptedPolicy(), "none")
    yield TestClient(build_app(inference, "t"), headers={"Authorization": "Bearer t"})
    inference.close()


MODELS = st.sampled_from(["policy", "policy", "policy", "agent", "\ud800"]) | anything
NUMBERS = {"temperature": 1.0, "seed": 1, "n": 1, "top_p": 1}
served_chats = st.builds(
    lambda made, model, more: {**made, "model": model, **more} if isinstance(made, dict) else made,
    chats,
    MODELS,
    like(NUMBERS),
)
served_messages = st.builds(
    lambda made, model: {**made, "model": model} if isinstance(made, dict) else made, messages_bodies, MODELS
)
raw = st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode(errors="surrogatepass"))


def only_answered(client: TestClient, path: str, data: bytes) -> None:
    done = client.post(path, content=data)
    assert done.status_code == 200 or 400 <= done.status_code < 500, (done.status_code, data)
    if done.status_code != 200:
        assert isinstance(done.json()["error"]["message"], str)


def encoded(made: Any) -> bytes:
    return json.dumps(made).encode()


@FEW
@given(served_chats.map(encoded) | raw)
def test_served_chat_is_answered_or_refused(client: TestClient, data: bytes) -> None:
    only_answered(client, "/v1/chat/completions", data)


@FEW
@given(served_messages.map(encoded) | raw)
def test_served_anthropic_message_is_answered_or_refused(client: TestClient, data: bytes) -> None:
    only_answered(client, "/v1/messages", data)


@pytest.mark.slow
@MANY
@given(chats, choices, messages_bodies)
def test_many_requests_are_read_or_refused(chat: Any, choice: Any, asked: Any) -> None:
    only_refused(read_chat, chat)
    only_refused(read_choose, choice)
    only_refused(read_messages, asked)


@pytest.mark.slow
@MANY
@given(served_chats.map(encoded) | raw, served_messages.map(encoded) | raw)
def test_many_served_requests_are_answered_or_refused(client: TestClient, chat: bytes, asked: bytes) -> None:
    only_answered(client, "/v1/chat/completions", chat)
    only_answered(client, "/v1/messages", asked)
