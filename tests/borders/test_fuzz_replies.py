"""Replies, errors, submissions and requests near valid ones: only the project's own errors come out.

The real SDKs read the bytes; only the socket is replaced. Ten thousand cases take minutes, and are marked `slow`.
"""

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from unittest.mock import patch

import anthropic
import httpx2
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sia_core.agents.command.desk import parse_object
from sia_core.agents.conversation import Allowance
from sia_core.agents.llm import LlmAgent
from sia_core.agents.protocol import NoDecisionError
from sia_core.domain.errors import SiaError
from sia_core.domain.hashing import canonical_json
from sia_core.domain.json_data import read, write
from sia_core.domain.lineage import Decision
from sia_core.domain.rollout import Sampling
from sia_core.engine.budget import RefusedError
from sia_core.engine.jsonl import BadJsonError, parse
from sia_core.engine.wire_formats import (
    chat_events,
    message_events,
    read_chat,
    read_choose,
    read_messages,
    write_chat,
    write_messages,
)
from sia_core.host.untrusted import UntrustedError
from sia_core.policy.anthropic_messages import AnthropicPolicy
from sia_core.policy.fitting import FittingPolicy
from sia_core.policy.openai_chat import OpenAIPolicy
from sia_core.policy.protocol import Completion, Policy, Request
from sia_core.policy.retry import Retry
from sia_core.policy.spec import parse_spec
from tests.agents.sources import MemorySource
from tests.agents.test_llm import BATCH, GOOD, HARNESS, SEED, SITUATION
from tests.borders.mutations import FEW, MANY, encode, mutated
from tests.borders.talks import body, call, message, submit, use

HALF = settings(FEW, max_examples=150)
SAMPLING = Sampling()
EVENTS = "text/event-stream"

LOOK = body("I look", call("list_nodes", '{"offset": 0}'), reasoning_content="hm", refusal=None)
PARTS = body([{"type": "text", "text": "I"}], call("read_file", {"node": 0, "file": "agent.py"}))
WRITTEN = body(f"<tool_call>{json.dumps({'name': 'submit_decision', 'arguments': GOOD})}</tool_call>", finish="stop")
CHATS = [submit(), LOOK, PARTS, WRITTEN, body("cut", call(), finish="length"), body("no", finish="stop", refusal="no")]
THOUGHT = {"type": "thinking", "thinking": "hm", "signature": "c2ln"}
MESSAGES = [
    message(use()),
    message(THOUGHT, {"type": "text", "text": "I look"}, use("list_nodes", {"offset": 0})),
    message({"type": "redacted_thinking", "data": "eA=="}, use("read_file", {"node": 0, "file": "agent.py"})),
    message({"type": "text", "text": "no"}, stop="refusal"),
    message(use(), stop="max_tokens"),
]


def chunks(whole: dict[str, Any]) -> list[Any]:
    """A chat completion as the chunks of a stream."""
    (choice,) = whole["choices"]
    said = dict(choice["message"])
    calls = [{"index": at, **one} for at, one in enumerate(said.pop("tool_calls", ()))]
    deltas = [{name: value} for name, value in said.items()] + [{"tool_calls": [one]} for one in calls]
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    made: list[Any] = [{**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    made.append({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": choice["finish_reason"]}]})
    return [*made, {**head, "choices": [], "usage": whole["usage"]}]


def events(whole: dict[str, Any]) -> list[Any]:
    """A message as the events of a stream."""
    made: list[Any] = [{"type": "message_start", "message": {**whole, "content": [], "stop_reason": None}}]
    for at, block in enumerate(whole["content"]):
        text = block.get("text") or block.get("thinking", "")
        text = json.dumps(block["input"]) if block["type"] == "tool_use" else text
        kind = {"tool_use": "partial_json", "thinking": "thinking"}.get(block["type"], "text")
        name = {"partial_json": "input_json_delta"}.get(kind, f"{kind}_delta")
        made.append({"type": "content_block_start", "index": at, "content_block": {**block, "input": {}, "text": ""}})
        deltas = ({"type": name, kind: part} for part in (text[:5], text[5:]))
        made += [{"type": "content_block_delta", "index": at, "delta": delta} for delta in deltas]
        made.append({"type": "content_block_stop", "index": at})
    end = {"stop_reason": whole["stop_reason"], "stop_sequence": None}
    return [*made, {"type": "message_delta", "delta": end, "usage": whole["usage"]}, {"type": "message_stop"}]


def sse(made: Any, *, named: bool) -> bytes:
    """Events as bytes."""
    lines = []
    for one in made if isinstance(made, list) else [made]:
        kind = one.get("type") if isinstance(one, dict) else None
        head = f"event: {kind if isinstance(kind, str) and kind.isprintable() else 'message_start'}\n" if named else ""
        lines.append(head.encode(errors="replace") + b"data: " + encode(one) + b"\n\n")
    return b"".join(lines)


@dataclass
class Sent:
    """One answer of a server."""

    content: bytes
    status: int = 200
    kind: str = "application/json"


@st.composite
def replies(draw: st.DrawFn, wire: str) -> Sent:
    """One answer near a valid one: a body, a stream, or an error."""
    how = draw(st.sampled_from(("plain", "stream", "stream", "error")))
    if how == "error":
        words = draw(st.sampled_from(ERRORS))
        made = draw(mutated({"error": {"message": words, "type": "x", "param": None, "code": None, "n_ctx": 9}}))
        return Sent(encode(made), draw(st.sampled_from((400, 401, 403, 404, 413, 422, 429, 500, 503))))
    valid = draw(st.sampled_from(CHATS if wire == "openai" else MESSAGES))
    if how == "plain":
        content = encode(draw(mutated(valid)))
    else:
        made = draw(mutated(chunks(valid) if wire == "openai" else events(valid)))
        content = sse(made, named=wire == "anthropic") + (b"data: [DONE]\n\n" if draw(st.booleans()) else b"")
    if draw(st.integers(0, 9)) == 0:
        content = content[: draw(st.integers(0, len(content)))]
    return Sent(content, kind=EVENTS if how == "stream" else "application/json")


ERRORS = [
    "This model's maximum context length is 8192 tokens. However, you requested 17000 tokens (1000 in the messages)",
    "max_tokens is too large: 16000. This model supports at most 0 completion tokens",
    "the request exceeds the available context size",
    "temperature is not supported",
    "no",
]


@dataclass
class Bytes:
    """A transport that answers with prepared bytes, the last ones again and again."""

    answers: list[Sent]
    sent: list[dict[str, Any]] = field(default_factory=list)

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.sent.append(json.loads(request.content or b"{}"))
        one = self.answers[0] if len(self.answers) == 1 else self.answers.pop(0)
        return httpx2.Response(one.status, content=one.content, headers={"content-type": one.kind}, request=request)


def policy(wire: str, server: Bytes) -> Policy:
    """An agent's model whose SDK reads the prepared bytes."""
    spec = parse_spec(f"{wire}:m@http://127.0.0.1:1")
    assert spec is not None
    http = httpx2.Client(transport=httpx2.MockTransport(server))
    retry = Retry.of_agent(5.0, sleep=lambda _: None)
    if wire == "openai":
        with patch.object(openai, "OpenAI", partial(openai.OpenAI, http_client=http)):
            return OpenAIPolicy(spec, retry)
    with patch.object(anthropic, "Anthropic", partial(anthropic.Anthropic, http_client=http)):
        return AnthropicPolicy(spec, retry)


class Kept:
    """A policy whose replies have to be fit for the log, and for both wires of a harness."""

    def __init__(self, inner: Policy) -> None:
        self._inner = inner
        self.spec, self.digest, self.trainable, self.concurrency = inner.spec, inner.digest, False, 1

    def probe(self, adapter: Any = None) -> tuple[float, ...]:
        return ()

    def sample(self, request: Request) -> Completion:
        done = self._inner.sample(request)
        line = canonical_json(write(done))
        assert canonical_json(write(read(Completion, json.loads(line)))) == line
        for written in (chat_events(write_chat("k" * 64, [done])), message_events(write_messages("k" * 64, done))):
            written.encode()
        return done


def converse(wire: str, answers: list[Sent]) -> None:
    """Let an agent talk; it decides, or ends by an error of the project."""
    server = Bytes(answers)
    kept: list[Any] = []
    agent = LlmAgent(
        f"{wire}:m",
        FittingPolicy(Kept(policy(wire, server)), lambda _: None),
        allowance=Allowance(turns=3),
        price=None,
        keep=lambda _, __, record: kept.append(canonical_json(record)),
    )
    try:
        decision = agent.decide(SITUATION, MemorySource([SEED], {1: BATCH}, {HARNESS.digest: HARNESS}))
    except (SiaError, NoDecisionError):
        pass
    else:
        assert read(Decision, json.loads(canonical_json(write(decision)))) == decision
    assert len(kept) == 1, "the conversation is recorded"


def fuzz(limits: settings, test: Callable[..., None], *strategies: st.SearchStrategy[Any]) -> None:
    """Run a test over random cases."""
    limits(given(*strategies)(test))()


def check_replies(wire: str, limits: settings) -> None:
    fuzz(limits, lambda answers: converse(wire, answers), st.lists(replies(wire), min_size=1, max_size=4))


def check_submissions(limits: settings) -> None:
    def check(arguments: Any) -> None:
        text = encode(arguments).decode()
        converse("openai", [Sent(encode(body(None, call(arguments=text)))), Sent(encode(submit()))])
        try:
            found = parse_object(text.encode(), "decision.json")
        except UntrustedError:
            return
        canonical_json(found)

    fuzz(limits, check, mutated(GOOD))


TURNS: list[Any] = [
    {"role": "system", "content": "s"},
    {"role": "user", "content": [{"type": "text", "text": "u"}]},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
    },
    {"role": "tool", "tool_call_id": "c", "content": "t"},
]
TOOLS = [{"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}]
ASKED = [
    (read_chat, {"model": "m", "messages": TURNS, "tools": TOOLS, "n": 2, "max_tokens": 9, "stream": False}),
    (read_choose, {"messages": TURNS[:2], "options": ["a", "b"]}),
    (
        read_messages,
        {
            "messages": [
                {"role": "user", "content": "u"},
                {"role": "assistant", "content": [{"type": "text", "text": "a"}, use("f", {})]},
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "t"}]},
            ],
            "system": "s",
            "tools": [{"name": "f", "input_schema": {"type": "object"}}],
            "max_tokens": 5,
        },
    ),
]


def check_requests(limits: settings) -> None:
    def check(pair: tuple[Callable[[Any], Any], Any]) -> None:
        reader, asked = pair
        try:
            ask = reader(parse(encode(asked), limit=1 << 20))
        except (RefusedError, BadJsonError):
            return
        answer = (
            Sent(encode(body("x", finish="stop"))),
            Sent(encode(message({"type": "text", "text": "x"}, stop="end_turn"))),
        )
        for wire, sent in zip(("openai", "anthropic"), answer, strict=True):
            server = Bytes([sent])
            with suppress(SiaError):
                policy(wire, server).sample(Request(ask.messages, SAMPLING, 0, tools=ask.tools))

    pairs = st.sampled_from(ASKED).flatmap(lambda one: st.tuples(st.just(one[0]), mutated(one[1])))
    fuzz(limits, check, pairs)


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "k")


@pytest.mark.parametrize("wire", ["openai", "anthropic"])
def test_replies_near_valid_ones_raise_only_own_errors(wire: str) -> None:
    check_replies(wire, HALF)


def test_submissions_near_valid_ones_raise_only_own_errors() -> None:
    check_submissions(FEW)


def test_requests_near_valid_ones_raise_only_own_errors() -> None:
    check_requests(FEW)


@pytest.mark.slow
@pytest.mark.parametrize("wire", ["openai", "anthropic"])
def test_ten_thousand_replies_raise_only_own_errors(wire: str) -> None:
    check_replies(wire, MANY)


@pytest.mark.slow
def test_ten_thousand_submissions_raise_only_own_errors() -> None:
    check_submissions(MANY)


@pytest.mark.slow
def test_ten_thousand_requests_raise_only_own_errors() -> None:
    check_requests(MANY)
