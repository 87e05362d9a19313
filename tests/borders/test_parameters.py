"""Parameters that a server refuses: left out or renamed once, remembered, and said once."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sia_core.domain.errors import PolicyError
from sia_core.policy.anthropic_messages import AnthropicPolicy
from sia_core.policy.dialect import Dialect, Learner
from sia_core.policy.openai_chat import OpenAIPolicy
from sia_core.policy.parameters import refused
from sia_core.policy.protocol import Policy, RejectedRequestError, Request
from sia_core.policy.retry import Retry
from sia_core.policy.spec import parse_spec
from tests.factories import ask
from tests.wire.server import Answer, Wire, chat, error, message, serve

Say = list[str]

REFUSALS = [
    ("OpenAI", "seed", "Unsupported parameter: 'seed' is not supported with this model."),
    ("OpenAI", "temperature", "Unsupported value: 'temperature' does not support 0.2 with this model. Only the default "
     "(1) value is supported."),
    ("Azure", "seed", "Unrecognized request argument supplied: seed"),
    ("LiteLLM", "seed", "litellm.UnsupportedParamsError: anthropic does not support parameters: ['seed'], for "
     "model=claude. To drop these, set `litellm.drop_params=True`"),
    ("LiteLLM", "temperature", "litellm.UnsupportedParamsError: gpt-5 models don't support temperature=0.2. Only "
     "temperature=1 is supported."),
    ("vLLM", "seed", "[{'type': 'extra_forbidden', 'loc': ('body', 'seed'), 'msg': 'Extra inputs are not permitted', "
     "'input': 5}]"),
    ("Anthropic", "temperature", "`temperature` is deprecated for this model."),
    ("Anthropic", "temperature", "temperature: Extra inputs are not permitted"),
    ("Anthropic", "cache_control", "messages.0.content.0.cache_control: Extra inputs are not permitted"),
    ("Groq", "seed", "property 'seed' is unsupported"),
    ("Gemini", "seed", 'Invalid JSON payload received. Unknown name "seed": Cannot find field.'),
    ("Fireworks", "seed", "Extra inputs are not permitted, field: 'seed', value: 5"),
    ("TGI", "seed", "Failed to deserialize the JSON body into the target type: unknown field `seed`, expected one of "
     "`messages`, `temperature`, `max_tokens` at line 1 column 20"),
    ("a Go server", "seed", 'json: unknown field "seed"'),
    ("xAI", "seed", "Argument not supported on this model: seed"),
    ("Bedrock", "seed", "Malformed input request: #: extraneous key [seed] is not permitted, please reformat it"),
    ("Bedrock", "temperature", "This model doesn't support the temperature field. Remove temperature and try again."),
    ("Transformers", "seed", "Unexpected keys in the request: {'seed'}"),
    ("OpenAI", "max_tokens", "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
     "'max_completion_tokens' instead."),
    ("Mistral", "max_completion_tokens", "[{'type': 'extra_forbidden', 'loc': ['body', 'max_completion_tokens'], "
     "'msg': 'Extra inputs are not permitted'}]"),
]  # fmt: skip
OTHERS = [
    "This model's maximum context length is 8 tokens; max_tokens is not supported beyond it",
    "unknown field `parallel_tool_calls`, expected one of `seed`, `temperature`",
    "temperature: Input should be less than or equal to 1",
    "max_tokens is too large: 20000. This model supports at most 8192 completion tokens",
    "Invalid schema for function 'add': seed must be an object",
    "Unsupported value: 'messages[0].role' does not support 'system' with this model.",
    "top_p is not supported",
    "",
]


@pytest.mark.parametrize(("server", "name", "text"), REFUSALS)
def test_refusal_names_the_refused_parameter(server: str, name: str, text: str) -> None:
    assert refused("", text) == name, server


@pytest.mark.parametrize("text", OTHERS)
def test_other_refusal_names_no_parameter(text: str) -> None:
    assert refused("", text) is None


def test_field_of_the_error_names_the_parameter() -> None:
    assert refused("temperature", "Unsupported value: 0.7 is not supported with this model") == "temperature"
    assert refused("None", "Unsupported value: 0.7 is not supported with this model") is None
    assert refused("messages.0", "not supported") is None


@pytest.fixture
def wire() -> Iterator[Wire]:
    with serve() as wire:
        yield wire


@pytest.fixture
def said() -> Say:
    return []


@pytest.fixture
def make(wire: Wire, said: Say, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Policy]:
    """A policy of either kind, and what it says of its server."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-31")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-secret-31")

    def policy(kind: str, *, agent: bool = False, known: Dialect | None = None) -> Policy:
        spec = parse_spec(f"{kind}:m@{wire.url}" + ("/v1" if kind == "openai" else ""))
        assert spec is not None
        retry = Retry.of_agent(5.0, sleep=lambda _: None) if agent else Retry(attempts=2, sleep=lambda _: None)
        learner = Learner(known, lambda _, sentence: said.append(sentence))
        return OpenAIPolicy(spec, retry, learner) if kind == "openai" else AnthropicPolicy(spec, retry, learner)

    return policy


def picky(kind: str, *names: str, status: int = 400, detail: bool = False) -> Answer:
    """A server that refuses these parameters, the first of them first."""

    def answer(handler: Any, body: dict[str, Any]) -> None:
        text = json.dumps(body)
        for name in names:
            if f'"{name}"' in text:
                if detail:
                    loc = {"type": "extra_forbidden", "loc": ["body", name], "msg": "Extra inputs are not permitted"}
                    handler.send_json({"detail": [loc]}, status)
                else:
                    error(status, f"{name}: Extra inputs are not permitted")(handler, body)
                return
        (chat("hello") if kind == "openai" else message({"type": "text", "text": "hello"}))(handler, body)

    return answer


@pytest.mark.parametrize("detail", [False, True])
@pytest.mark.parametrize("status", [400, 422])
def test_refused_parameters_are_left_out_once_and_said_once(
    make: Callable[..., Policy], wire: Wire, said: Say, status: int, detail: bool
) -> None:
    wire.answer = picky("openai", "seed", "temperature", status=status, detail=detail)
    policy = make("openai")
    assert [policy.sample(ask(f"{n}", seed=n, temperature=0.2)).text for n in range(3)] == ["hello"] * 3
    assert len(wire.requests) == 3 + 2
    assert "seed" not in wire.requests[-1][2] and "temperature" not in wire.requests[-1][2]
    assert policy.dialect == Dialect(left_out=("seed", "temperature"))  # type: ignore[attr-defined]
    assert [sentence.split(",")[0] for sentence in said] == ["takes no seed", "takes no temperature"]
    assert "own temperature" in said[1] and "different replies" in said[0]


def test_known_dialect_costs_no_refusal(make: Callable[..., Policy], wire: Wire, said: Say) -> None:
    wire.answer = picky("openai", "seed", "max_tokens")
    policy = make("openai", known=Dialect(left_out=("seed",), limit="max_completion_tokens"))
    assert policy.sample(ask("Say", max_tokens=9)).text == "hello"
    ((_, _, body),) = wire.requests
    assert body["max_completion_tokens"] == 9 and not said


def test_token_limit_is_renamed_and_never_left_out(make: Callable[..., Policy], wire: Wire, said: Say) -> None:
    wire.answer = picky("openai", "max_tokens")
    assert make("openai").sample(ask("Say")).text == "hello"
    assert said == ["takes the token limit as max_completion_tokens"]
    wire.answer = picky("openai", "max_tokens", "max_completion_tokens")
    before = len(wire.requests)
    with pytest.raises(PolicyError, match="does not take max_completion_tokens"):
        make("openai").sample(ask("Say"))
    assert len(wire.requests) == before + 2


def test_anthropic_temperature_and_cache_marks_are_left_out(make: Callable[..., Policy], wire: Wire, said: Say) -> None:
    wire.answer = picky("anthropic", "temperature", "cache_control")
    talk = ({"role": "system", "content": "brief"}, {"role": "user", "content": "Say"})
    request = Request(talk, ask("", temperature=0.5).sampling, 0, growing=True)
    policy = make("anthropic")
    assert [policy.sample(request).text for _ in range(2)] == ["hello"] * 2
    assert len(wire.requests) == 4
    body = wire.requests[-1][2]
    assert body["system"] == [{"type": "text", "text": "brief"}] and "temperature" not in body
    assert len(said) == 2


def test_refusal_of_another_kind_is_not_sent_again(make: Callable[..., Policy], wire: Wire, said: Say) -> None:
    wire.answer = error(400, "messages: roles must alternate")
    with pytest.raises(RejectedRequestError):
        make("openai").sample(ask("Say"))
    assert len(wire.requests) == 1 and not said


def test_parameter_refused_again_after_it_was_left_out_ends_the_requests(
    make: Callable[..., Policy], wire: Wire
) -> None:
    wire.answer = error(400, "Unsupported parameter: 'seed'")
    with pytest.raises(PolicyError, match="does not take seed"):
        make("openai").sample(ask("Say"))
    assert len(wire.requests) == 2


def test_quoted_text_of_a_harness_leaves_nothing_out(make: Callable[..., Policy], wire: Wire, said: Say) -> None:
    text = "Unsupported parameter: 'seed'"
    wire.answer = error(400, f"messages.0: cannot parse {text}")
    with pytest.raises(RejectedRequestError):
        make("openai").sample(ask(text))
    assert len(wire.requests) == 1 and not said


def test_agent_whose_stream_options_are_refused_streams_without(make: Callable[..., Policy], wire: Wire) -> None:
    wire.answer = picky("openai", "stream_options", "seed")
    assert make("openai", agent=True).sample(ask("Say")).text == "hello"
    assert "stream_options" not in wire.requests[-1][2] and "seed" not in wire.requests[-1][2]
    assert len(wire.requests) == 3


def test_request_with_tools_leaves_parallel_tool_calls_unsaid(make: Callable[..., Policy], wire: Wire) -> None:
    wire.answer = chat("hello")
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
    make("openai").sample(Request(({"role": "user", "content": "x"},), ask("").sampling, 0, tools=(tool,)))
    assert "parallel_tool_calls" not in wire.requests[0][2]
