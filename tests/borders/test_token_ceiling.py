"""The token budget of a rollout is a ceiling: prompts and replies together never take more, in parallel neither."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sia_core.domain.harness import Harness
from sia_core.policy.local import LocalPolicy
from sia_core.policy.protocol import OverBudgetError, Policy, Request, most_tokens, under_ceiling
from sia_core.policy.registry import load_policy
from tests.engine.test_gateway import Client
from tests.factories import ask
from tests.wire.server import Handler, serve

CEILING = 3000
TOML = f'name="h"\n[budget]\ncalls=64\ntokens={CEILING}\nruns=1\nparallel=8\n'.encode()
HARNESS = Harness.from_files({"harness.toml": TOML, "agent.py": b""})
OPTIONS = ["red", "green", "blue"]


def dearest(handler: Handler, body: dict[str, Any]) -> None:
    """Answer as the dearest server: a token for each byte of what was sent, and a reply up to its limit."""
    texts = [str(message["content"]) for message in body["messages"]]
    sent = sum(len(text.encode()) for text in texts)
    most = body.get("max_tokens") or body["max_completion_tokens"]
    if "response_format" in body:
        content, count = json.dumps({"choice": OPTIONS[0]}), 12
    else:
        content, count = "x", most
    message = {"role": "assistant", "content": content}
    usage = {"prompt_tokens": sent, "completion_tokens": count, "total_tokens": sent + count}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    handler.send_json(
        {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}
    )


@pytest.fixture
def server() -> Iterator[Policy]:
    with serve() as wire:
        wire.answer = dearest
        yield load_policy(f"openai:m@{wire.url}/v1", threads=1)


@pytest.fixture
def local(tiny_model: Path) -> Policy:
    return LocalPolicy(f"local:{tiny_model}", tiny_model, threads=1)


def bodies(seed: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Requests of any size, from a word to thirty times the ceiling."""
    rng = random.Random(seed)
    while True:
        size = rng.choice((1, 30, 300, 900, 2000, 30 * CEILING))
        messages = [{"role": "user", "content": "colour " * (size // 7) + "x" * (size % 7)}]
        if rng.random() < 0.4:
            yield "/sia/choose", {"messages": messages, "options": OPTIONS}
        else:
            yield (
                "/v1/chat/completions",
                {"messages": messages, "max_tokens": rng.choice((1, 16, 256)), "n": rng.choice((1, 1, 3))},
            )


@pytest.mark.parametrize("kind", ["server", "local"])
@pytest.mark.parametrize("seed", range(3))
def test_parallel_requests_of_any_size_stay_under_the_ceiling(
    kind: str, seed: int, request: pytest.FixtureRequest
) -> None:
    client = Client(request.getfixturevalue(kind), HARNESS)
    asked = bodies(seed)
    for number in range(16):
        client.post(*next(asked), number)
    answers = [client.read() for _ in range(16)]
    client.close()
    spent = sum(turn.tokens for turn in client.gateway.turns)
    assert 0 < spent <= CEILING
    assert client.gateway.budget.left["tokens"] == CEILING - spent
    refused = [answer["body"]["error"] for answer in answers if answer["status"] != 200]
    assert client.gateway.failure is None and client.gateway.fatal is None
    assert any(error["type"] == "budget" for error in refused)


def test_prompt_over_the_ceiling_is_refused_before_it_is_sent(server: Policy) -> None:
    client = Client(server, HARNESS)
    answer = client.call("/v1/chat/completions", {"messages": [{"role": "user", "content": "x" * 10 * CEILING}]})
    client.close()
    assert answer["status"] == 402 and not client.gateway.turns
    assert f"{CEILING:,} tokens are left, and the prompt takes" in answer["body"]["error"]["message"]
    assert answer["budget"]["tokens"] == CEILING


@pytest.mark.control
def test_local_prompt_that_fits_is_served_to_the_last_token(local: Policy) -> None:
    client = Client(local, HARNESS)
    for _ in range(60):
        answer = client.chat(max_tokens=256)
        if answer["status"] != 200:
            break
    client.close()
    assert answer["status"] == 402
    prompt = client.gateway.turns[0].prompt_tokens
    assert CEILING - sum(turn.tokens for turn in client.gateway.turns) <= prompt


def test_limit_of_a_reply_is_what_the_ceiling_leaves() -> None:
    request = Request(({"role": "user", "content": "hello"},), ask("", max_tokens=50).sampling, 0, ceiling=30)
    assert under_ceiling(request, 10).sampling.max_tokens == 20
    assert under_ceiling(request, 29).sampling.max_tokens == 1
    with pytest.raises(OverBudgetError, match="30 tokens are left, and the prompt takes 30"):
        under_ceiling(request, 30)


@pytest.mark.parametrize("text", ["hello", "\u00e9" * 40, "\U0001f600" * 40, "\n" * 40, "a b c d e f g"])
def test_upper_count_is_at_least_the_real_one(local: LocalPolicy, text: str) -> None:
    request = Request(({"role": "user", "content": text},), ask("", max_tokens=1).sampling, 0)
    assert local.sample(request).prompt_tokens <= most_tokens(request)


def test_options_of_more_than_64_kib_are_refused() -> None:
    client = Client(load_policy("scripted", threads=1), HARNESS)
    options = [f"{number} {'x' * 100}" for number in range(900)]
    answer = client.call("/sia/choose", {"messages": [{"role": "user", "content": "a"}], "options": options})
    client.close()
    assert answer["status"] == 400 and "bytes of options; at most 65,536" in answer["body"]["error"]["message"]
