"""Streamed chat completions, as different servers send them, put together again behind the real client library."""

import pytest

from sia_core.domain.rollout import ToolCall
from tests.factories import ask
from tests.policy.conftest import Make
from tests.wire.server import Wire
from tests.wire.streams import DONE, USAGE, call, chat_parts, chunk, stream

ADD, MUL = ToolCall("c1", "add", '{"a": 1}'), ToolCall("c2", "mul", '{"b": 2}')
PIECES = {
    "arguments in pieces": [
        call(0, id="c1", name="add"),
        call(0, arguments='{"a"'),
        call(0, arguments=": 1}"),
        call(1, id="c2", name="mul", arguments='{"b": '),
        call(1, arguments="2}"),
    ],
    "ids and names in pieces": [
        call(0, id="c", name="a"),
        call(0, id="1", name="dd"),
        call(0, arguments='{"a": 1}'),
        call(1, id="c2", name="m", arguments='{"b"'),
        call(1, name="ul", arguments=": 2}"),
    ],
    "ids and names with each piece": [
        call(0, id="c1", name="add", arguments='{"a"'),
        call(0, id="c1", name="add", arguments=": 1}"),
        call(1, id="c2", name="mul", arguments='{"b": 2}'),
    ],
    "empty ids in later pieces": [
        call(0, id="c1", name="add"),
        call(0, id="", name="", arguments='{"a": 1}'),
        call(1, id="c2", name="mul"),
        call(1, id="", name="", arguments='{"b": 2}'),
    ],
    "interleaved": [
        call(0, id="c1", name="add", arguments='{"a"'),
        call(1, id="c2", name="mul", arguments='{"b"'),
        call(0, arguments=": 1}"),
        call(1, arguments=": 2}"),
    ],
    "all numbered 0": [
        call(0, id="c1", name="add", arguments='{"a": 1}'),
        call(0, id="c2", name="mul", arguments='{"b": '),
        call(0, arguments="2}"),
    ],
    "not numbered": [
        call(None, id="c1", name="add", arguments='{"a": 1}'),
        call(None, id="c2", name="mul", arguments='{"b": '),
        call(None, arguments="2}"),
    ],
    "together": [
        {
            "tool_calls": [
                *call(0, id="c1", name="add", arguments='{"a": 1}')["tool_calls"],
                *call(1, id="c2", name="mul", arguments='{"b": 2}')["tool_calls"],
            ]
        }
    ],
}


@pytest.mark.parametrize("how", PIECES)
def test_calls_of_tools_are_put_together(make: Make, wire: Wire, how: str) -> None:
    wire.answer = stream([*map(chunk, PIECES[how]), chunk({}, "tool_calls"), chunk(usage=USAGE), DONE])
    done = make("openai").sample(ask("Say"))
    assert done.tool_calls == (ADD, MUL)
    assert (done.text, done.finish, done.output_tokens) == ("", "tool_calls", 3)


@pytest.mark.parametrize(
    ("last", "tokens"),
    [
        ([chunk({}, "stop"), DONE], (0, 0)),
        ([chunk({}, "stop", usage=USAGE), DONE], (7, 3)),
        ([chunk({}, "stop", usage={**USAGE, "completion_tokens": 1}), chunk(usage=USAGE)], (7, 3)),
        ([chunk(usage={**USAGE, "prompt_tokens_details": {"cached_tokens": 5}}), DONE], (7, 3)),
    ],
)
def test_usage_is_the_last_that_was_given(make: Make, wire: Wire, last: list[bytes], tokens: tuple[int, int]) -> None:
    wire.answer = stream([chunk({"content": "hello"}), *last])
    done = make("openai").sample(ask("Say"))
    assert (done.text, done.finish, done.prompt_tokens, done.output_tokens) == ("hello", "stop", *tokens)
    assert done.cached_tokens in (0, 5) and len(wire.requests) == 1


def test_cached_tokens_of_a_stream_are_counted(make: Make, wire: Wire) -> None:
    usage = {**USAGE, "prompt_tokens_details": {"cached_tokens": 5, "cache_write_tokens": 1}}
    wire.answer = stream(chat_parts(["hello"], usage))
    done = make("openai").sample(ask("Say"))
    assert (done.cached_tokens, done.cache_write_tokens) == (5, 1)


def test_refusal_in_a_stream_is_one(make: Make, wire: Wire) -> None:
    wire.answer = stream([chunk({"refusal": "I "}), chunk({"refusal": "won't"}), chunk({}, "stop"), DONE])
    done = make("openai").sample(ask("Say"))
    assert (done.text, done.finish) == ("I won't", "content_filter")
