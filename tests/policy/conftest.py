"""An agent's model, behind a local server."""

import threading
from collections.abc import Callable, Iterator

import pytest

from sia_core.policy.protocol import Policy
from sia_core.policy.retry import Retry
from tests.policy.test_http import KEY, connect
from tests.wire.server import Wire, serve
from tests.wire.streams import parts, stream

Make = Callable[..., Policy]


@pytest.fixture
def wire() -> Iterator[Wire]:
    with serve() as wire:
        yield wire


@pytest.fixture
def over() -> Iterator[threading.Event]:
    """Ends every silence when the test is over."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def make(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> Make:
    """An agent's model of either kind, which does not sleep between attempts."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)

    def policy(kind: str, silence_s: float = 5.0) -> Policy:
        wire.answer = wire.answer or stream(parts(kind, ["hel", "lo"]))
        return connect(kind, wire.url, Retry.of_agent(silence_s, sleep=lambda _: None))

    return policy
