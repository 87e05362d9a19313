"""Checks that every server has to pass, over either wire."""

from collections.abc import Callable, Sequence

import pytest

from sia_core.agents.conversation import Allowance, Conversation, NoSubmissionError, Submit
from sia_core.agents.tools import Arguments, Tool
from sia_core.agents.tracing import NO_TRACE
from sia_core.host.progress import Silent
from sia_core.policy.fitting import FittingPolicy
from sia_core.policy.protocol import Completion, EndpointError, Policy, Request
from sia_core.policy.registry import load_policy
from tests.factories import ask

OPTIONS = ("red", "green", "blue")
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tell the weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
"""A tool that conversations name."""


class Looking(Arguments):
    """Arguments of a tool that reads."""

    name: str


def connect(spec: str) -> Policy:
    """Load the policy of a server on the loopback, which needs no key."""
    return load_policy(spec, threads=1)


def check_reply(policy: Policy) -> None:
    """Check that a reply has a text and token counts, and that its end is named."""
    policy.probe()
    done = policy.sample(ask("Say hello.", max_tokens=24))
    assert done.text and done.finish in ("stop", "length")
    assert 0 < done.output_tokens <= 24 and done.prompt_tokens > 0


def check_cut(policy: Policy) -> None:
    """Check that a reply which ends at its limit says so."""
    assert policy.sample(ask("Tell me a long story about a dragon.", max_tokens=16)).finish == "length"


def check_choice(policy: Policy, number: int = 8) -> None:
    """Check that every choice is one of the options, and that seeds are not all answered alike."""
    made = [policy.sample(ask("Name a colour.", OPTIONS, seed=seed)).text for seed in range(number)]
    assert set(made) <= set(OPTIONS)


def check_choice_by_numbers(policy: Policy) -> None:
    """Check a server that ignores schemas: options are numbered, and a model that picks none is an endpoint's error.

    SmolLM2-135M hardly ever replies with a number alone, so both ends are right. A reply that is taken for an option
    without being one is what must not happen.
    """
    try:
        assert policy.sample(ask("Name a colour.", OPTIONS)).text in OPTIONS
    except EndpointError as error:
        assert "none of the 3 options" in error.what and error.hint  # noqa: PT017
    else:
        assert policy.dialect.choices == "numbers"  # type: ignore[attr-defined]


def check_history(policy: Policy) -> Completion:
    """Check that the server takes a conversation with a tool, its call and its answer."""
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
    messages = (
        {"role": "system", "content": "You answer shortly."},
        {"role": "user", "content": "How is the weather in Oslo?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
    )
    plain = ask("", max_tokens=16)
    return policy.sample(Request(messages, plain.sampling, 0, tools=(WEATHER,)))


def check_agent(policy: Policy, turns: int = 3) -> None:
    """Check that an agent's conversation is taken for some turns; a small model submits nothing."""
    tool = Tool("look", "Look at a thing.", Looking, lambda given: f"{given.name}: nothing to see")
    fitting = FittingPolicy(policy, lambda _: None, getattr(policy, "window", lambda: None))
    limits = Allowance(turns=turns, reply=256)
    conversation = Conversation(fitting, [tool], 0, limits, None, NO_TRACE, Silent(), "server")
    with pytest.raises(NoSubmissionError, match=f"{turns} turns|submissions|replies in a row were cut"):
        conversation.run("You look at things.", "Look, then submit.", Submit("submit", "End.", Looking, str))
    assert len(conversation.transcript.messages) >= 2 + turns
    assert conversation.transcript.usage.tokens > 0


CHECKS: Sequence[Callable[[Policy], object]] = (check_reply, check_cut, check_choice, check_history, check_agent)
