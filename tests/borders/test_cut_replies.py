"""Replies that were cut at their limit are never taken as whole, and the limit follows the server's window."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sia_core.agents.protocol import NoDecisionError
from sia_core.domain.config import RunConfig
from sia_core.domain.rollout import Sampling, ToolCall
from sia_core.domain.setting import option
from sia_core.engine.wire_formats import write_chat, write_messages
from sia_core.policy.fitting import LEAST, FittingPolicy
from sia_core.policy.protocol import Completion, Policy, Request
from sia_core.policy.retry import Retry
from sia_core.policy.window import Limits, TooLongError, read_limits, read_window
from tests.agents.test_llm import GOOD
from tests.borders.talks import Talk, body, call, message, plain, strict, submit, talking, use
from tests.policy.test_http import TOOL, connect
from tests.wire.server import Answer, Handler, serve
from tests.wire.streams import DONE, chunk, stream

KINDS = ("openai", "anthropic")
CUT = json.dumps(GOOD)[:-40]


def event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


def cut_stream(text: str, reason: str = "max_tokens") -> Answer:
    """A streamed message of Anthropic whose call was cut after `text`."""
    return stream(
        [
            event("message_start", message=message(stop=None)),
            event("content_block_start", index=0, content_block=use(given={})),
            event("content_block_delta", index=0, delta={"type": "input_json_delta", "partial_json": text}),
            event("message_delta", delta={"stop_reason": reason}, usage={"output_tokens": 16000}),
            event("message_stop"),
        ]
    )


CUT_REPLIES = {
    "openai": {
        "call": plain(body(None, call(arguments=CUT), finish="length")),
        "whole call": plain(body(None, call(), finish="length")),
        "text": plain(body("I will", finish="length")),
        "nothing": plain(body(None, finish="length")),
        "another name": plain(body("I will", call(), finish="max_tokens")),
        "model_length": plain(body("I will", finish="model_length")),
        "no reason but its count": plain(
            body("I", finish=None, usage={"prompt_tokens": 1, "completion_tokens": 16000})
        ),
        "stop beside its count": plain(
            body("I", finish="stop", usage={"prompt_tokens": 1, "completion_tokens": 16000})
        ),
        "stream": stream([chunk({"tool_calls": [{"index": 0, **call(arguments=CUT)}]}), chunk({}, "length"), DONE]),
    },
    "anthropic": {
        "call": plain(message(use(given={"lever": "stop"}), stop="max_tokens")),
        "text": plain(message({"type": "text", "text": "I will"}, stop="max_tokens")),
        "nothing": plain(message(stop="max_tokens")),
        "thinking": plain(message({"type": "thinking", "thinking": "h", "signature": "x"}, stop="max_tokens")),
        "window": plain(message({"type": "text", "text": "I"}, stop="model_context_window_exceeded")),
        "stream": cut_stream(CUT),
        "stream that looks whole": cut_stream(json.dumps(GOOD)),
    },
}
ALL = [(kind, name) for kind in KINDS for name in CUT_REPLIES[kind]]


def whole(kind: str) -> Answer:
    return plain(submit() if kind == "openai" else message(use()))


@pytest.mark.parametrize(("kind", "name"), ALL)
def test_cut_reply_is_not_acted_on(tmp_path: Path, kind: str, name: str) -> None:
    with talking(kind, tmp_path) as talk:
        assert talk.decide(CUT_REPLIES[kind][name], then=whole(kind)).lever == "harness"
        assert len(talk.bodies) == 2
        assert "Your reply was cut at" in talk.texts and "Nothing of it was done" in talk.texts
        assert talk.records[0]["not_taken"] == [], "no submission is used up"
        assert "tool_use" not in talk.texts and "tool_calls" not in talk.texts


def test_agent_is_told_at_how_many_tokens_and_what_was_dropped(tmp_path: Path) -> None:
    cut = body(None, call("read_file", "{"), call(arguments=CUT), finish="length", usage={"completion_tokens": 700})
    with talking("openai", tmp_path) as talk:
        talk.decide(plain(cut), plain(submit()))
        assert "was cut at 700 tokens" in talk.texts
        assert "the calls of read_file, submit_decision were dropped" in talk.texts


@pytest.mark.parametrize("kind", KINDS)
def test_replies_that_are_always_cut_end_the_conversation_by_that_name(tmp_path: Path, kind: str) -> None:
    with talking(kind, tmp_path) as talk:
        with pytest.raises(NoDecisionError, match=r"3 replies in a row were cut.*--agent-reply-tokens"):
            talk.decide(then=CUT_REPLIES[kind]["call"])
        assert len(talk.bodies) == 3


def test_cuts_between_whole_replies_do_not_add_up(tmp_path: Path) -> None:
    cut = CUT_REPLIES["openai"]["text"]
    look = [plain(body(None, call("list_nodes", "{}", f"c{at}"))) for at in range(3)]
    with talking("openai", tmp_path) as talk:
        assert talk.decide(cut, cut, look[0], cut, cut, look[1], cut, plain(submit())).lever == "harness"


@pytest.mark.parametrize("finish", ["length", "content_filter"])
def test_harness_sees_a_cut_reply_on_both_wires(finish: str) -> None:
    done = Completion("", "", finish=finish, tool_calls=(ToolCall("c", "add", '{"a": '),))
    assert write_chat("k", [done])["choices"][0]["finish_reason"] == finish
    stop = write_messages("k", done)["stop_reason"]
    assert stop == {"length": "max_tokens", "content_filter": "refusal"}[finish]


@pytest.mark.parametrize("finish", ["stop", "tool_calls"])
def test_harness_sees_whole_calls_as_before(finish: str) -> None:
    done = Completion("", "", finish=finish, tool_calls=(ToolCall("c", "add", "{}"),))
    assert write_chat("k", [done])["choices"][0]["finish_reason"] == "tool_calls"
    assert write_messages("k", done)["stop_reason"] == "tool_use"


@pytest.mark.parametrize("kind", KINDS)
def test_cut_call_of_a_policy_keeps_the_text_that_the_model_wrote(kind: str) -> None:
    with serve() as wire:
        wire.answer = CUT_REPLIES["openai"]["call"] if kind == "openai" else cut_stream(CUT)
        done = connect(kind, wire.url, Retry(attempts=1)).sample(
            Request(({"role": "user", "content": "x"},), Sampling(), 0, tools=(TOOL,))
        )
    assert done.finish == "length" and done.tool_calls[0].arguments == CUT


@pytest.mark.parametrize("reason", ["error", "abort", "insufficient_system_resource", "network_error"])
def test_reply_that_the_server_broke_off_is_requested_again(tmp_path: Path, reason: str) -> None:
    with talking("openai", tmp_path) as talk:
        assert talk.decide(plain(body(None, call(), finish=reason)), plain(submit())).lever == "harness"
        assert len(talk.bodies) == 2


# The server's window.
VLLM = (
    "This model's maximum context length is {window} tokens. However, you requested {all} tokens ({prompt} in the "
    "messages, {reply} in the completion). Please reduce the length of the messages or completion."
)
VLLM_NEW = (
    "'max_tokens' or 'max_completion_tokens' is too large: {reply}. This model's maximum context length is {window} "
    "tokens and your request has {prompt} input tokens ({reply} > {window} - {prompt})."
)
VLLM_LEAST = (
    "This model's maximum context length is {window} tokens. However, you requested {reply} output tokens and your "
    "prompt contains at least {least} input tokens, for a total of at least {least_all} tokens."
)
VLLM_MODEL_LEN = (
    "max_tokens={reply} cannot be greater than max_model_len=max_total_tokens={window}. Please request fewer output "
    "tokens. (parameter=max_tokens, value={reply})"
)
LITELLM = f"litellm.ContextWindowExceededError: litellm.BadRequestError: Hosted_vllmException - {VLLM}"
SGLANG = (
    "Requested token count exceeds the model's maximum context length of {window} tokens. You requested a total of "
    "{all} tokens: {prompt} tokens from the input messages and {reply} tokens for the completion."
)
TGI = (
    "Input validation error: `inputs` tokens + `max_new_tokens` must be <= {window}. Given: {prompt} `inputs` tokens "
    "and {reply} `max_new_tokens`"
)
ROUTER = (
    "This endpoint's maximum context length is {window} tokens. However, you requested about {all} tokens ({prompt} of "
    "text input, {reply} in the output)."
)
CLAUDE = (
    "input length and `max_tokens` exceed context limit: {prompt} + {reply} > {window}, decrease input length or "
    "`max_tokens` and try again"
)
NO_FIGURES = "context_length_exceeded: the request is too long"
TEXTS = [VLLM, VLLM_NEW, VLLM_LEAST, VLLM_MODEL_LEN, LITELLM, SGLANG, TGI, ROUTER, CLAUDE, NO_FIGURES]


def window_of(text: str, window: int, prompt: int, then: Answer, status: int = 400) -> Answer:
    """A server with a window: it refuses what does not fit with this text."""

    def answer(handler: Handler, sent: dict[str, Any]) -> None:
        reply = sent["max_tokens"]
        if prompt + reply <= window:
            then(handler, sent)
            return
        least = max(window - reply + 1, 1)
        named = {"window": window, "prompt": prompt, "reply": reply, "all": prompt + reply}
        words = text.format(**named, least=min(least, prompt), least_all=min(least, prompt) + reply)
        handler.send_json({"error": {"message": words, "type": "invalid_request_error"}}, status)

    return answer


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text[:24])
def test_limit_is_lowered_to_what_the_window_has_room_for(tmp_path: Path, text: str) -> None:
    with talking("openai", tmp_path) as talk:
        assert talk.decide(then=window_of(text, 8192, 3000, plain(submit()))).lever == "harness"
        sent = talk.bodies[-1]["max_tokens"]
        assert 1000 <= sent <= 5192
        (said,) = talk.said.lines
        assert f"limited to {talk_limit(talk)} tokens" in said


def talk_limit(talk: Talk) -> str:
    """The first lowered limit, as it is printed."""
    lowered = next(sent["max_tokens"] for sent in talk.bodies if sent["max_tokens"] != 16000)
    return f"{lowered:,}"


@pytest.mark.parametrize("text", [VLLM, CLAUDE, VLLM_LEAST], ids=lambda text: text[:20])
@pytest.mark.parametrize("kind", KINDS)
def test_window_is_remembered_for_later_turns(tmp_path: Path, kind: str, text: str) -> None:
    if kind == "openai":
        look = body(None, call("list_nodes", "{}"), usage={"prompt_tokens": 3000, "completion_tokens": 9})
        answers = [plain(look), plain(submit())]
    else:
        answers = [
            plain(message(use("list_nodes", {}), usage={"input_tokens": 3000, "output_tokens": 9})),
            plain(message(use(id="c2"))),
        ]
    with talking(kind, tmp_path) as talk:
        then = window_of(text, 8192, 3000, strict(answers, lambda _: ""))
        talk.decide(then=then)
        refused = [sent["max_tokens"] for sent in talk.bodies if sent["max_tokens"] > 5192]
        assert len(refused) <= 3, "one refusal by each way of asking, in the first turn alone"
        assert len(talk.said.lines) == 1
        assert talk.decide(then=then).lever == "harness", "a resumed run finds the replies under the limit asked for"


def test_prompt_that_leaves_no_room_ends_with_both_sizes(tmp_path: Path) -> None:
    with talking("openai", tmp_path) as talk:
        with pytest.raises(
            NoDecisionError, match=r"the prompt takes 8,000 tokens, and the server's window of 8,192"
        ) as end:
            talk.decide(then=window_of(VLLM, 8192, 8000, plain(submit())))
        assert "--max-model-len" in str(end.value)
        assert len(talk.bodies) == 3, "one request, in each way of asking"


@pytest.mark.parametrize("status", [400, 500])
def test_prompt_beyond_llama_cpps_window_ends_with_both_sizes(tmp_path: Path, status: int) -> None:
    def answer(handler: Handler, _: dict[str, Any]) -> None:
        words = (
            "the request exceeds the available context size. try increasing the context size or enable context shift"
        )
        error = {
            "code": status,
            "message": words,
            "type": "exceed_context_size_error",
            "n_prompt_tokens": 9000,
            "n_ctx": 4096,
        }
        handler.send_json({"error": error}, status)

    with talking("openai", tmp_path) as talk:
        with pytest.raises(NoDecisionError, match=r"takes 9,000 tokens, and the server's window of 4,096"):
            talk.decide(then=answer)
        assert len(talk.bodies) <= 3


@pytest.mark.parametrize("text", [VLLM_LEAST, NO_FIGURES], ids=lambda text: text[:20])
def test_search_for_room_without_exact_figures_is_bounded(tmp_path: Path, text: str) -> None:
    with talking("openai", tmp_path) as talk:
        with pytest.raises(NoDecisionError, match=r"leaves no room for a reply"):
            talk.decide(then=window_of(text, 8192, 8100, plain(submit())))
        assert len({sent["max_tokens"] for sent in talk.bodies}) < 9
        assert min(sent["max_tokens"] for sent in talk.bodies) == LEAST


@pytest.mark.parametrize(
    ("text", "most"),
    [
        (
            "max_tokens is too large: 16000. This model supports at most 4096 completion tokens, whereas you provided "
            "16000.",
            4096,
        ),
        ("max_tokens: 16000 > 8192, which is the maximum allowed number of output tokens for claude-3-5-haiku", 8192),
        ("Invalid max_tokens value, the valid range of max_tokens is [1, 8192]", 8192),
        (
            "`max_tokens` must be less than or equal to `8192`, the maximum value for `max_tokens` is less than the "
            "`context_window` for this model",
            8192,
        ),
    ],
)
def test_longest_reply_of_a_model_is_asked_for(tmp_path: Path, text: str, most: int) -> None:
    def answer(handler: Handler, sent: dict[str, Any]) -> None:
        if sent["max_tokens"] > most:
            handler.send_json({"error": {"message": text, "type": "invalid_request_error", "param": "max_tokens"}}, 400)
        else:
            plain(submit())(handler, sent)

    with talking("openai", tmp_path) as talk:
        talk.decide(then=answer)
        assert talk.bodies[-1]["max_tokens"] == most


class Refusing:
    """A policy that refuses its own figures."""

    spec = digest = "p"
    trainable, concurrency = False, 1

    def __init__(self, limits: Callable[[Request], Limits | None]) -> None:
        self.limits, self.asked = limits, list[int]()

    def probe(self, adapter: Any = None) -> tuple[float, ...]:
        return ()

    def sample(self, request: Request) -> Completion:
        self.asked.append(request.sampling.max_tokens)
        if (told := self.limits(request)) is not None:
            raise TooLongError("too long", limits=told)
        return Completion("x", "", output_tokens=1)


@pytest.mark.parametrize(
    "told",
    [Limits(8192, 100), Limits(8192, 1, None, exact=False), Limits(), Limits(reply=9000), Limits(10**9), Limits(5)],
)
def test_server_that_refuses_everything_is_asked_a_bounded_number_of_times(told: Limits) -> None:
    inner = Refusing(lambda _: told)
    policy: Policy = FittingPolicy(inner, lambda _: None)
    with pytest.raises(TooLongError):
        policy.sample(Request(({"role": "user", "content": "x"},), Sampling(1.0, 16000), 0))
    assert len(inner.asked) < 12 and inner.asked == sorted(inner.asked, reverse=True)


def test_request_within_the_window_is_sent_unchanged() -> None:
    inner = Refusing(lambda _: None)
    FittingPolicy(inner, lambda _: None).sample(Request(({"role": "user", "content": "x"},), Sampling(1.0, 77), 0))
    assert inner.asked == [77]


def test_models_list_names_the_window_where_an_error_does_not(tmp_path: Path) -> None:
    assert read_window(b'{"data": [{"id": "m", "max_model_len": 2048}, {"id": "n", "max_model_len": 9}]}', "m") == 2048
    assert read_window(b'{"data": [{"id": "other", "max_model_len": 2048}]}', "m") == 2048
    for data in (b"", b"[]", b'{"data": 5}', b'{"data": [{"id": "m", "max_model_len": "8k"}]}', b"[" * 10_000):
        assert read_window(data, "m") is None


@pytest.mark.parametrize(
    "text", ["", "no such tool", "the temperature 8192 is not supported", "invalid_api_key 123456"]
)
def test_errors_about_something_else_name_no_limits(text: str) -> None:
    assert read_limits(text) is None


def test_limit_of_a_reply_is_a_setting() -> None:
    found = option(RunConfig, "agent_reply_tokens")
    assert (found.flag, found.default, found.low) == ("--agent-reply-tokens", 16_000, LEAST)


def test_limit_of_a_reply_is_the_agents_own(tmp_path: Path) -> None:
    with talking("openai", tmp_path, reply=900) as talk:
        talk.decide(then=plain(submit()))
        assert talk.bodies[0]["max_tokens"] == 900
