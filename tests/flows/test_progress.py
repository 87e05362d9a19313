"""The step at work in the Prefect UI, whose client is replaced here."""

from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from flows import progress
from sia_core.host.progress import Silent, Wait


class Heard(Silent):
    """Keeps every wait that was reported."""

    def __init__(self) -> None:
        self.waits: list[Wait | None] = []

    def waiting(self, wait: Wait | None) -> None:
        self.waits.append(wait)


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Texts of the progress artifact, in order; the time stands still."""
    texts: list[str] = []

    def create(_share: float, *, key: str, description: str) -> UUID:
        assert key == "toy-now"
        texts.append(description)
        return UUID(int=1)

    def update(_artifact: UUID, _share: float, *, description: str) -> None:
        texts.append(description)

    def monotonic() -> float:
        return 100.0

    def now() -> float:
        return 1041.0

    clock: Any = type("Clock", (), {"monotonic": staticmethod(monotonic), "time": staticmethod(now)})
    monkeypatch.setattr(progress, "create_progress_artifact", create)
    monkeypatch.setattr(progress, "update_progress_artifact", update)
    monkeypatch.setattr(progress, "time", clock)
    return texts


def test_wait_is_shown_once_a_turn_right_after_the_step_before(shown: list[str]) -> None:
    heard = Heard()
    reporter = progress.Shown("toy", heard)
    wait = Wait("asking the agent", 1, 0, began=1000.0)
    reporter.progress("execute", 16, 16)
    for one in (wait, replace(wait, tokens=50), None, replace(wait, turn=2, tokens=300)):
        reporter.waiting(one)
    assert shown == [
        "toy, execute: 16 of 16",
        "toy, asking the agent: turn 1, 41 s, 0 tokens",
        "toy, asking the agent: turn 2, 41 s, 300 tokens",
    ]
    assert len(heard.waits) == 4 and heard.waits[2] is None
