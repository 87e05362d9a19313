"""Requests as the clients of OpenAI, Anthropic and LiteLLM send them are taken by `sia serve` and by the gateway."""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import anthropic
import httpx
import openai
import pytest
import uvicorn

from sia_core.domain.errors import PolicyError, SiaError, UsageError
from sia_core.domain.rollout import ToolCall
from sia_core.engine.budget import RefusedError
from sia_core.engine.wire_formats import Ask, read_chat, read_messages
from sia_core.export.inference import Inference
from sia_core.export.manifest import Export
from sia_core.export.serve import build_app, listen
from sia_core.policy.faults import Judge
from sia_core.policy.openai_chat import OpenAIPolicy
from sia_core.policy.protocol import Completion, Request
from sia_core.policy.retry import Retry
from sia_core.policy.scripted import ScriptedPolicy
from sia_core.policy.spec import NO_KEY, parse_spec
from tests.engine.test_gateway import Client as Harness
from tests.engine.test_gateway import Echo
from tests.export.makers import make_export
from tests.wire.server import error as wire_error
from tests.wire.server import serve as wire_server

TOKEN = "a-token-of-the-server"
TOOL: Any = {"type": "function", "function": {"name": "add", "description": "Add.", "parameters": {"type": "object"}}}
HELLO: Any = [{"role": "user", "content": "hello"}]
PROBLEM = json.dumps({"number": 3})


class Caller(ScriptedPolicy):
    """A policy that calls the tool that it is offered, and says a sentence without one."""

    def __init__(self) -> None:
        self.requests: list[Request] = []

    def sample(self, request: Request) -> Completion:
        self.requests.append(request)
        if request.options is not None:
            return super().sample(request)
        if request.tools:
            call = ToolCall("call_1", "add", '{"a": 1}')
            return Completion("", "prompt", finish="tool_calls", tool_calls=(call,), prompt_tokens=3, output_tokens=2)
        return Completion("One. Two. Three.", "prompt", prompt_tokens=3, output_tokens=2)


@dataclass(frozen=True)
class Served:
    url: str
    policy: Caller

    @property
    def openai(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=TOKEN, max_retries=0)

    @property
    def anthropic(self) -> anthropic.Anthropic:
        return anthropic.Anthropic(base_url=self.url, api_key=TOKEN, max_retries=0)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The server of `sia serve` on a free port."""
    policy = Caller()
    inference = Inference(Export.load(make_export(tmp_path_factory.mktemp("export"))), policy, "none")
    bound = listen(0)
    server = uvicorn.Server(uvicorn.Config(build_app(inference, TOKEN), log_level="warning", access_log=False))
    thread = threading.Thread(target=lambda: server.run(sockets=[bound]), daemon=True)
    thread.start()
    yield Served(f"http://127.0.0.1:{bound.getsockname()[1]}", policy)
    server.should_exit = True
    thread.join(10)
    inference.close()


# OpenAI's client and sia serve.


def test_whole_message_sent_back_is_taken(served: Served) -> None:
    first = served.openai.chat.completions.create(model="policy", messages=HELLO).choices[0].message
    history: Any = [*HELLO, first.model_dump(), {"role": "user", "content": "more"}]
    again = served.openai.chat.completions.create(model="policy", messages=history)
    assert again.choices[0].message.content == "One. Two. Three."
    sent = served.policy.requests[-1].messages
    assert sent[1] == {"role": "assistant", "content": "One. Two. Three."}
    served.openai.chat.completions.create(model="policy", messages=[*HELLO, first, *HELLO])  # type: ignore[list-item]
    assert served.policy.requests[-1].messages[1] == sent[1]


def test_whole_tool_call_sent_back_is_taken(served: Served) -> None:
    client = served.openai
    called = client.chat.completions.create(model="policy", messages=HELLO, tools=[TOOL]).choices[0].message
    assert called.tool_calls is not None
    result = {"role": "tool", "tool_call_id": called.tool_calls[0].id, "content": [{"type": "text", "text": "3"}]}
    history: Any = [*HELLO, called.model_dump(), result]
    assert client.chat.completions.create(model="policy", messages=history).choices[0].message.content
    sent = served.policy.requests[-1].messages
    assert sent[1]["tool_calls"][0]["function"] == {"name": "add", "arguments": '{"a": 1}'}
    assert sent[2] == {"role": "tool", "content": "3", "tool_call_id": "call_1"}


@pytest.mark.parametrize("usage", [None, False, True])
def test_stream_ends_with_usage_only_if_it_was_asked_for(served: Served, usage: bool | None) -> None:
    options: Any = {} if usage is None else {"stream_options": {"include_usage": usage}}
    chunks = list(served.openai.chat.completions.create(model="policy", messages=HELLO, stream=True, **options))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == "One. Two. Three." and chunks[0].choices[0].delta.role == "assistant"
    if usage:
        assert [bool(chunk.choices) for chunk in chunks] == [*[True] * (len(chunks) - 1), False]
        assert chunks[-1].usage is not None and chunks[-1].usage.total_tokens == 5
        assert all(chunk.usage is None for chunk in chunks[:-1])
    else:
        assert all(chunk.choices for chunk in chunks) and all(chunk.usage is None for chunk in chunks)


def test_streamed_tool_call_is_read_by_the_client(served: Served) -> None:
    with served.openai.chat.completions.stream(model="policy", messages=HELLO, tools=[TOOL]) as stream:
        whole = stream.get_final_completion()
    (call,) = whole.choices[0].message.tool_calls or []
    assert (call.function.name, call.function.arguments) == ("add", '{"a": 1}')
    history: Any = [*HELLO, whole.choices[0].message.model_dump(), {"role": "tool", "tool_call_id": "1", "content": ""}]
    assert served.openai.chat.completions.create(model="policy", messages=history).choices


def test_models_listed_can_be_retrieved(served: Served) -> None:
    listed = [model.id for model in served.openai.models.list()]
    assert listed == ["agent", "policy"]
    assert [served.openai.models.retrieve(name).id for name in listed] == listed
    with pytest.raises(openai.NotFoundError, match="there are: agent, policy") as caught:
        served.openai.models.retrieve("gpt")
    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize(
    "given",
    [
        {"stop": None},
        {"stop": []},
        {"logprobs": False},
        {"logprobs": None, "top_logprobs": None},
        {"user": "me", "metadata": {"a": "b"}},
        {"n": 1, "presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": {}},
        {"response_format": {"type": "text"}},
        {"tool_choice": "auto"},
        {"tools": [TOOL], "tool_choice": "none"},
        {"tools": [], "tool_choice": {"type": "auto"}},
        {"parallel_tool_calls": True, "service_tier": "auto", "store": False},
        {"extra_headers": {"X-Title": "a", "HTTP-Referer": "b"}},
        {"max_tokens": 5, "temperature": 0.5, "seed": 3, "top_p": 1},
        {"max_completion_tokens": 5},
        {"safety_identifier": "x", "prompt_cache_key": "y"},
    ],
    ids=str,
)
def test_parameter_that_asks_for_nothing_is_taken(served: Served, given: dict[str, Any]) -> None:
    done = served.openai.chat.completions.create(model="policy", messages=HELLO, **given)
    assert done.choices[0].message.content == "One. Two. Three."


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"tool_choice": "required", "tools": [TOOL]}, "tool_choice='required'"),
        ({"tool_choice": {"type": "function", "function": {"name": "add"}}, "tools": [TOOL]}, "tool_choice"),
        ({"logprobs": True}, "logprobs=True"),
        ({"top_logprobs": 3}, "top_logprobs=3"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"reasoning_effort": "high"}, "reasoning_effort='high'"),
        ({"presence_penalty": 1}, "presence_penalty=1"),
        ({"top_p": 0.5}, "top_p=0.5"),
        ({"temperature": 0}, "temperature"),
        ({"n": 0}, "n: 0 is not at least 1"),
        ({"extra_body": {"top_k": 3}}, "top_k"),
        ({"extra_body": {"max_token": 3}}, "did you mean 'max_tokens'"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "image_url"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "'robot'"),
        ({"messages": []}, "messages"),
    ],
    ids=str,
)
def test_parameter_that_is_not_offered_is_refused_by_name(served: Served, given: dict[str, Any], words: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        served.openai.chat.completions.create(**{"model": "policy", "messages": HELLO, **given})
    text = str(caught.value)
    assert words in text and "Input should" not in text and "pydantic" not in text


def test_stop_ends_the_reply(served: Served) -> None:
    for stop, expected in (("Two", "One. "), (["Three", " Two"], "One."), (["none of them"], "One. Two. Three.")):
        done = served.openai.chat.completions.create(model="policy", messages=HELLO, stop=stop)
        assert (done.choices[0].message.content, done.choices[0].finish_reason) == (expected, "stop")
    with pytest.raises(openai.BadRequestError, match="no stop"):
        served.openai.chat.completions.create(
            model="agent", messages=[{"role": "user", "content": PROBLEM}], stop=["x"]
        )


def test_allowed_tools_are_the_only_ones_on_offer(served: Served) -> None:
    other = {"type": "function", "function": {"name": "other", "parameters": {}}}
    choice: Any = {
        "type": "allowed_tools",
        "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "other"}}]},
    }
    served.openai.chat.completions.create(model="policy", messages=HELLO, tools=[TOOL, other], tool_choice=choice)  # type: ignore[list-item]
    assert [tool["function"]["name"] for tool in served.policy.requests[-1].tools] == ["other"]


def test_agent_answers_both_clients(served: Served) -> None:
    asked: Any = [{"role": "user", "content": PROBLEM}]
    done = served.openai.chat.completions.create(model="agent", messages=asked, seed=1)
    message = served.anthropic.messages.create(model="agent", messages=asked, max_tokens=100)
    assert "colour" in json.loads(done.choices[0].message.content or "")
    (block,) = message.content
    assert block.type == "text" and "colour" in json.loads(block.text)


def test_unknown_path_is_an_error_in_the_clients_form(served: Served) -> None:
    with pytest.raises(openai.NotFoundError, match="there are: GET /v1/models"):
        served.openai.responses.create(model="policy", input="hello")
    with pytest.raises(anthropic.NotFoundError, match="there are"):
        served.anthropic.messages.count_tokens(model="policy", messages=HELLO)
    wrong = httpx.get(f"{served.url}/v1/chat/completions", headers={"Authorization": f"Bearer {TOKEN}"})
    assert wrong.status_code == 405 and "POST" in wrong.json()["error"]["message"]


@pytest.mark.parametrize(
    "data", [b'{"model": "\\ud800"}', b"\xff\xfe", b"[]", b"", b'{"model": 1e999}', b"null", b'{"a":NaN}']
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
def test_body_that_is_no_request_is_refused_in_the_clients_form(served: Served, path: str, data: bytes) -> None:
    done = httpx.post(f"{served.url}{path}", content=data, headers={"Authorization": f"Bearer {TOKEN}"})
    assert done.status_code == 400 and isinstance(done.json()["error"]["message"], str)
    assert (done.json().get("type") == "error") is (path == "/v1/messages")


# Anthropic's client and sia serve.


def test_whole_message_goes_back_to_anthropics_path(served: Served) -> None:
    client = served.anthropic
    first = client.messages.create(model="policy", max_tokens=9, system="be brief", messages=HELLO)
    assert first.content[0].type == "text" and first.usage.output_tokens == 2 and first.stop_reason == "end_turn"
    history: Any = [*HELLO, {"role": "assistant", "content": first.content}, *HELLO]
    client.messages.create(model="policy", max_tokens=9, messages=history)
    history[1] = {"role": first.role, "content": [block.model_dump() for block in first.content]}
    client.messages.create(model="policy", max_tokens=9, messages=history)
    assert served.policy.requests[-1].messages[1] == {"role": "assistant", "content": "One. Two. Three."}


def test_tools_and_streams_go_through_anthropics_path(served: Served) -> None:
    client = served.anthropic
    tool: Any = {"name": "add", "input_schema": {"type": "object"}, "cache_control": {"type": "ephemeral"}}
    called = client.messages.create(
        model="policy", max_tokens=9, messages=HELLO, tools=[tool], tool_choice={"type": "auto"}
    )
    assert called.stop_reason == "tool_use" and called.content[0].type == "tool_use"
    result: Any = {"type": "tool_result", "tool_use_id": called.content[0].id, "content": "3", "is_error": False}
    history: Any = [*HELLO, {"role": "assistant", "content": called.content}, {"role": "user", "content": [result]}]
    with client.messages.stream(model="policy", max_tokens=9, messages=history, stop_sequences=["Two"]) as stream:
        assert stream.get_final_text() == "One. "
    assert (
        client.messages.create(
            model="policy", max_tokens=9, messages=HELLO, tools=[tool], tool_choice={"type": "none"}
        ).stop_reason
        == "end_turn"
    )
    assert [model.id for model in client.models.list()] == ["agent", "policy"]
    assert client.models.retrieve("policy").id == "policy"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, "thinking"),
        ({"extra_body": {"top_k": 4}}, "top_k=4"),
        ({"model": "claude"}, "there are: agent, policy"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, "'image'"),
    ],
    ids=str,
)
def test_anthropic_request_that_is_not_offered_is_refused_by_name(
    served: Served, given: dict[str, Any], words: str
) -> None:
    asked = {"model": "policy", "max_tokens": 9, "messages": HELLO, **given}
    with pytest.raises(anthropic.BadRequestError) as caught:
        served.anthropic.messages.create(**asked)
    assert words in str(caught.value) and "invalid_request_error" in str(caught.value)


def test_wrong_token_is_an_error_of_both_clients(served: Served) -> None:
    with pytest.raises(openai.AuthenticationError, match="wrong token"):
        openai.OpenAI(base_url=f"{served.url}/v1", api_key="x", max_retries=0).models.list()
    with pytest.raises(anthropic.AuthenticationError, match="wrong token"):
        anthropic.Anthropic(base_url=served.url, api_key="x", max_retries=0).messages.create(
            model="policy", max_tokens=9, messages=HELLO
        )


# Recorded bodies, LiteLLM's among them, and the gateway.

ASSISTANT = {
    "openai": {
        "role": "assistant",
        "content": "Yes.",
        "refusal": None,
        "annotations": [],
        "audio": None,
        "function_call": None,
        "tool_calls": None,
    },
    "litellm": {
        "content": "Yes.",
        "role": "assistant",
        "tool_calls": None,
        "function_call": None,
        "provider_specific_fields": {"refusal": None},
        "annotations": [],
        "images": None,
        "reasoning_content": "I think.",
        "thinking_blocks": [{"type": "thinking", "thinking": "I think."}],
    },
    "vllm": {"role": "assistant", "content": "Yes.", "reasoning": "I think.", "tool_calls": [], "refusal": None},
    "deepseek": {"role": "assistant", "content": "Yes.", "reasoning_content": "I think."},
    "openrouter": {"role": "assistant", "content": "Yes.", "reasoning_details": [{"type": "reasoning.text"}]},
    "parts": {"role": "assistant", "content": [{"type": "text", "text": "Yes.", "annotations": []}]},
    "refusal part": {"role": "assistant", "content": [{"type": "refusal", "refusal": "Yes."}]},
    "refusal": {"role": "assistant", "content": None, "refusal": "Yes."},
    "named": {"role": "assistant", "content": "Yes.", "name": "helper"},
}


@pytest.mark.parametrize("name", ASSISTANT)
def test_assistant_message_of_a_client_is_read(name: str) -> None:
    ask = read_chat({"messages": [*HELLO, ASSISTANT[name], {"role": "user", "content": "Why?"}]})
    assert ask.messages[1] == {"role": "assistant", "content": "Yes."}


@pytest.mark.parametrize(
    "call",
    [
        {"id": "call_0", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}},
        {"id": "call_0", "type": "function", "index": 0, "function": {"name": "add", "arguments": '{"a": 1}'}},
        {"id": "call_0", "function": {"name": "add", "arguments": {"a": 1}}},
        {"id": None, "type": None, "function": {"name": "add", "arguments": '{"a": 1}', "parsed_arguments": None}},
        {"function": {"name": "add", "arguments": '{"a": 1}'}, "provider_specific_fields": None},
    ],
)
def test_tool_call_of_a_client_is_read(call: dict[str, Any]) -> None:
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    plain = {"id": "call_0", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    assert read_chat({"messages": [*HELLO, message]}).messages[1]["tool_calls"] == [plain]


@pytest.mark.parametrize("arguments", [None, "", {}])
def test_tool_call_without_arguments_is_read(arguments: Any) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "add", "arguments": arguments}}
    (read,) = read_chat({"messages": [{"role": "assistant", "tool_calls": [call]}]}).messages[0]["tool_calls"]
    assert read["function"]["arguments"] in ("", "{}")


LITELLM_BODY = {
    "model": "policy",
    "messages": [
        {"role": "system", "content": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]},
        {"role": "user", "content": "hello"},
    ],
    "tools": [{**TOOL, "cache_control": {"type": "ephemeral"}}],
    "tool_choice": "auto",
    "stream": True,
    "stream_options": {"include_usage": True, "include_obfuscation": False},
    "max_tokens": 64,
    "temperature": 0.2,
    "user": "u",
    "metadata": {"user_id": "u"},
    "n": None,
    "stop": None,
    "logprobs": False,
    "parallel_tool_calls": True,
}


def test_body_of_litellm_is_read() -> None:
    ask = read_chat(LITELLM_BODY)
    assert ask.messages[0] == {"role": "system", "content": "Be brief."} and ask.n == 1
    assert ask.tools == (TOOL,) and ask.stream and ask.usage and ask.max_tokens == 64


def test_bodies_of_the_clients_are_served_by_the_gateway() -> None:
    client = Harness(Echo())
    try:
        done = client.call("/v1/chat/completions", {**LITELLM_BODY, "tools": [], "max_tokens": 9})
        assert done["status"] == 200 and '"usage": {"prompt_tokens"' in done["body"]
        plain = client.call("/v1/chat/completions", {"messages": HELLO, "stream": True})["body"]
        assert '"choices": []' not in plain and plain.endswith("data: [DONE]\n\n")
        assert client.call("/v1/models/policy", None)["body"]["id"] == "policy"
        unknown = client.call("/v1/models/gpt", None)
        assert unknown["status"] == 404 and "the model is policy" in unknown["body"]["error"]["message"]
        stopped = client.call("/v1/chat/completions", {"messages": HELLO, "stop": ["x"]})
        assert stopped["status"] == 400 and "cut the reply yourself" in stopped["body"]["error"]["message"]
        assert client.call("/v1/chat/completions", {"messages": HELLO, "stop": []})["status"] == 200
    finally:
        client.close()


def test_thinking_of_anthropics_client_is_dropped() -> None:
    blocks = [
        {"type": "thinking", "thinking": "Hm.", "signature": "s"},
        {"type": "redacted_thinking", "data": "x"},
        {"type": "text", "text": "Yes.", "citations": None},
    ]
    body = {"max_tokens": 9, "messages": [*HELLO, {"role": "assistant", "content": blocks}]}
    assert read_messages(body).messages[1] == {"role": "assistant", "content": "Yes."}
    assert read_messages({**body, "thinking": {"type": "disabled"}, "stop_sequences": []}).stop == ()


@pytest.mark.control
def test_plain_requests_are_read_as_before() -> None:
    """Seeds of turns derive from the read messages and tools, so these must not change."""
    body = {"messages": [{"role": "developer", "content": "d"}, *HELLO], "tools": [TOOL], "max_tokens": 5}
    expected = ({"role": "system", "content": "d"}, {"role": "user", "content": "hello"})
    assert read_chat(body) == Ask(expected, max_tokens=5, tools=(TOOL,))
    bare = {"type": "function", "function": {"name": "f"}}
    (tool,) = read_chat({"messages": HELLO, "tools": [bare]}).tools
    assert json.dumps(tool) == json.dumps(
        {"type": "function", "function": {"name": "f", "description": "", "parameters": {}}}
    )


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"messages": HELLO, "function_call": {"name": "f"}}, "function_call"),
        ({"messages": HELLO, "functions": [{"name": "f"}]}, "functions"),
        ({"messages": [{"role": "assistant", "content": "", "function_call": {"name": "f"}}]}, "function_call"),
        ({"messages": HELLO, "max_tokens": 0}, "max_tokens: 0 is not at least 1"),
        ({"messages": HELLO, "max_tokens": "9"}, "max_tokens: '9' is not a whole number"),
        ({"messages": "hello"}, "messages: 'hello' is not a list"),
        ({}, "messages: is missing"),
        ([], "is not a table"),
    ],
)
def test_refused_request_is_described_in_words(body: Any, words: str) -> None:
    with pytest.raises(RefusedError) as caught:
        read_chat(body)
    assert words in str(caught.value) and "Input should" not in str(caught.value)


# Keys and addresses of policies.


def judge(spec: str, key: str) -> Judge:
    parsed = parse_spec(spec)
    assert parsed is not None
    return Judge(parsed, key)


@pytest.mark.parametrize("key", ["a", "sk-1", "e", "none", "1234567", NO_KEY, ""])
def test_short_key_does_not_shred_a_message(key: str) -> None:
    text = "the model sk-1 needs a larger context: 1234567 tokens, none are left"
    assert judge("openai:m@http://127.0.0.1:9/v1", key).redact(text) == text


@pytest.mark.control
def test_keys_are_still_left_out_of_messages() -> None:
    url = "openai:m@http://127.0.0.1:9/v1"
    assert judge(url, "sk-12345678").redact("key sk-12345678 refused") == "key [key] refused"
    for text in ("Bearer sk-1", "api_key: sk-1", "x-api-key='sk-1'", "Authorization: sk-1, and more sk-1x"):
        shown = judge(url, "sk-1").redact(text)
        assert "[key]" in shown and "sk-1" not in shown.replace("sk-1x", "")


@pytest.mark.parametrize(
    ("spec", "hint"),
    [
        ("openai:m@http://127.0.0.1:9", "openai:m@http://127.0.0.1:9/v1"),
        ("openai:m@http://127.0.0.1:9/v1", "check the address"),
        ("anthropic:m@http://127.0.0.1:9/v1", "anthropic:m@http://127.0.0.1:9"),
        ("anthropic:m@http://127.0.0.1:9", "check the address"),
    ],
)
def test_hint_about_the_address_is_right_for_each_wire(spec: str, hint: str) -> None:
    found = judge(spec, "k")._final(404, "not found", "not found").hint
    assert found.endswith(hint) or (hint == "check the address" and "/v1" not in found), found
    assert ("/v1" in found) is (hint != "check the address")


def test_invalid_spec_names_the_address_of_its_wire() -> None:
    for kind, end in (("openai", ":PORT/v1,"), ("anthropic", ":PORT,")):
        with pytest.raises(UsageError) as caught:
            parse_spec(f"{kind}:m@http://user:secret@127.0.0.1")
        assert end in caught.value.hint


def test_server_without_v1_is_answered_with_the_address_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    with wire_server() as wire:
        wire.answer = wire_error(404)
        spec = parse_spec(f"openai:m@{wire.url}")
        assert spec is not None
        with pytest.raises(SiaError) as caught:
            OpenAIPolicy(spec, Retry()).sample(read_request())
    assert isinstance(caught.value, PolicyError) and f"openai:m@{wire.url}/v1" in caught.value.hint


def read_request() -> Request:
    from sia_core.domain.rollout import Sampling

    return Request(({"role": "user", "content": "x"},), Sampling(), 0)
