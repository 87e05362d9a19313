"""Choices among options: by a schema where a server enforces one, else by numbers in the text."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from sia_core.policy.choice import number_options, read_number
from sia_core.policy.dialect import THINKING, Dialect
from sia_core.policy.protocol import EndpointError, Policy, RejectedRequestError
from tests.borders.test_parameters import Say, make, said, wire
from tests.factories import ask
from tests.wire.server import Answer, Wire, chat, error, message, raw

__all__ = ["make", "said", "wire"]  # Fixtures.

KINDS = ("openai", "anthropic")
Make = Callable[..., Policy]
COLOURS = ["red", "green", "blue"]


def text_of(body: dict[str, Any]) -> str:
    content = body["messages"][-1]["content"]
    return str(content if isinstance(content, str) else content[-1]["text"])


def says(kind: str, text: str, finish: str = "stop") -> Answer:
    if kind == "openai":
        return chat(text, finish=finish)
    return message({"type": "text", "text": text}, stop="max_tokens" if finish == "length" else "end_turn")


def has_schema(body: dict[str, Any]) -> bool:
    return "response_format" in body or "output_config" in body


def heedless(kind: str, number: str = "3", plain: str = "Blue, I would say.") -> Answer:
    """A server that ignores the schema, as llama.cpp on Anthropic's wire and `transformers serve` do."""

    def answer(handler: Any, body: dict[str, Any]) -> None:
        numbered = "number of one option" in text_of(body)
        says(kind, number if numbered else plain)(handler, body)

    return answer


@pytest.mark.parametrize("kind", KINDS)
def test_server_that_ignores_the_schema_chooses_by_number(make: Make, wire: Wire, said: Say, kind: str) -> None:
    wire.answer = heedless(kind)
    policy = make(kind)
    done = policy.sample(ask("Pick", COLOURS))
    assert (done.text, done.finish, done.output_tokens) == ("blue", "stop", 6)
    assert "3. blue" in done.prompt
    assert len(wire.requests) == 2
    assert policy.sample(ask("Pick again", COLOURS)).text == "blue"
    assert len(wire.requests) == 3 and not has_schema(wire.requests[-1][2])
    assert said == ["enforces no JSON schema, so the options of a choice are numbered in its text"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "text",
    [
        "'response_format' : This model does not support response format `json_schema`.",
        "Invalid parameter: 'response_format' of type 'json_schema' is not supported with this model.",
        "This response_format type is unavailable now",
        "response_format value as json_schema is enabled only for api versions 2024-08-01-preview and later",
        "output_config: Extra inputs are not permitted",
        "[{'type': 'extra_forbidden', 'loc': ('body', 'response_format'), 'msg': 'Extra inputs are not permitted'}]",
    ],
)
def test_server_that_refuses_the_schema_chooses_by_number(make: Make, wire: Wire, kind: str, text: str) -> None:
    def answer(handler: Any, body: dict[str, Any]) -> None:
        (error(400, text) if has_schema(body) else says(kind, "2"))(handler, body)

    wire.answer = answer
    policy = make(kind)
    assert [policy.sample(ask("Pick", COLOURS)).text for _ in range(2)] == ["green"] * 2
    assert len(wire.requests) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_server_that_enforces_the_schema_keeps_to_it(make: Make, wire: Wire, said: Say, kind: str) -> None:
    wire.answer = says(kind, '{"choice": "red"}')
    policy = make(kind)
    assert [policy.sample(ask("Pick", COLOURS)).text for _ in range(2)] == ["red"] * 2
    assert len(wire.requests) == 2 and all(has_schema(body) for _, _, body in wire.requests)
    assert not said and policy.dialect.choices == "schema"  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", KINDS)
def test_model_that_cannot_choose_is_a_failure_of_the_endpoint(make: Make, wire: Wire, kind: str) -> None:
    wire.answer = says(kind, "I would rather not.")
    with pytest.raises(EndpointError, match="none of the 3 options") as failed:
        make(kind).sample(ask("Pick", COLOURS))
    assert not isinstance(failed.value, RejectedRequestError) and failed.value.hint


@pytest.mark.parametrize(
    ("text", "option"),
    [
        ("2", "green"),
        (" 2\n", "green"),
        ("2.", "green"),
        ("**2**", "green"),
        ("(2)", "green"),
        ("green", "green"),
        (" green ", "green"),
        ("2. green", "green"),
        ("<think>1 or 2?\n2.</think>\n\n2", "green"),
        ("4", None),
        ("0", None),
        ("22", None),
        ("1 2", None),
        ("2 or 3", None),
        ("I pick 2", None),
        ("Green", None),
        ("green, blue", None),
        ("1. green", None),
        ("<think>2", None),
        ("", None),
    ],
)
def test_reply_is_exactly_one_number_or_one_option(text: str, option: str | None) -> None:
    assert read_number(text, COLOURS) == option


def test_options_that_are_numbers_are_not_taken_for_numbers_of_options() -> None:
    options = ["10", "3", "2"]
    listed = str(number_options(({"role": "user", "content": "Pick"},), options)[-1]["content"])
    assert "option 1. 10" in listed
    assert [read_number(text, options) for text in ("3", "2", "option 2", "1")] == ["3", "2", "3", None]


def test_numbered_options_follow_the_last_message_of_the_user() -> None:
    talk = ({"role": "user", "content": "Pick"},)
    assert len(number_options(talk, COLOURS)) == 1
    answered = (*talk, {"role": "assistant", "content": "Hm."})
    assert [one["role"] for one in number_options(answered, COLOURS)] == ["user", "assistant", "user"]
    parts = ({"role": "user", "content": [{"type": "text", "text": "Pick"}]},)
    assert len(number_options(parts, COLOURS)) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_choice_of_a_model_that_does_not_think_has_little_room(make: Make, wire: Wire, kind: str) -> None:
    wire.answer = says(kind, '{"choice": "red"}')
    make(kind).sample(ask("Pick", COLOURS, max_tokens=16))
    assert wire.requests[0][2]["max_tokens"] < 256


def test_choice_of_a_model_that_thinks_gets_room_once_it_was_cut(make: Make, wire: Wire, said: Say) -> None:
    thought = {"type": "thinking", "thinking": "red or blue", "signature": "c2ln"}

    def answer(handler: Any, body: dict[str, Any]) -> None:
        if body["max_tokens"] < THINKING:
            message(thought, stop="max_tokens")(handler, body)
        else:
            message(thought, {"type": "text", "text": '{"choice": "red"}'})(handler, body)

    wire.answer = answer
    policy = make("anthropic")
    assert [policy.sample(ask("Pick", COLOURS, max_tokens=16)).text for _ in range(2)] == ["red"] * 2
    assert len(wire.requests) == 3 and len(said) == 1 and "thinks" in said[0]
    assert policy.dialect == Dialect(choices="schema", thinks=True)  # type: ignore[attr-defined]


def test_empty_cut_choice_of_a_reasoning_model_gets_room(make: Make, wire: Wire) -> None:
    def answer(handler: Any, body: dict[str, Any]) -> None:
        cut = body["max_tokens"] < THINKING
        chat("" if cut else '{"choice": "red"}', finish="length" if cut else "stop")(handler, body)

    wire.answer = answer
    assert make("openai").sample(ask("Pick", COLOURS)).text == "red"
    assert len(wire.requests) == 2


def test_way_is_found_once_by_choices_in_parallel(make: Make, wire: Wire, said: Say) -> None:
    wire.answer = heedless("openai")
    policy = make("openai")
    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda n: policy.sample(ask(f"{n}", COLOURS)), range(8)))
    assert [one.text for one in done] == ["blue"] * 8
    assert len(wire.requests) == 8 + 1 and len(said) == 1


def test_server_that_stops_enforcing_the_schema_is_measured_again(make: Make, wire: Wire, said: Say) -> None:
    wire.answer = heedless("openai")
    policy = make("openai", known=Dialect(choices="schema"))
    assert policy.sample(ask("Pick", COLOURS)).text == "blue"
    assert len(wire.requests) == 3 + 1 and len(said) == 1


@pytest.mark.parametrize("options", [["a", "a"], []])
def test_options_that_cannot_be_chosen_from_are_refused_unasked(make: Make, wire: Wire, options: list[str]) -> None:
    with pytest.raises(RejectedRequestError):
        make("openai").sample(ask("Pick", options))
    assert not wire.requests


def test_network_fault_finds_no_way(make: Make, wire: Wire) -> None:
    wire.answer = raw(b"{}")
    policy = make("openai")
    with pytest.raises(EndpointError):
        policy.sample(ask("Pick", COLOURS))
    assert policy.dialect.choices == ""  # type: ignore[attr-defined]
    wire.answer = says("openai", json.dumps({"choice": "red"}))
    assert policy.sample(ask("Pick", COLOURS)).text == "red"
