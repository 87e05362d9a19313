"""The wait for a model's reply, in a terminal and in a log."""

import io
import time
from dataclasses import replace

import pytest
from rich.console import Console, Group

from sia_core.cli.live import Live
from sia_core.host.progress import Wait

WAIT = Wait("asking the agent", 1, 0, began=1000.0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that a test sets."""
    now = [1000.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    return now


def test_log_has_one_line_for_each_turn(clock: list[float]) -> None:
    out = io.StringIO()
    with Live(Console(file=out, width=80)) as live:
        for turn, streamed in ((1, 0), (1, 10), (1, 20), (2, 300), (2, 310)):
            live.waiting(replace(WAIT, turn=turn, tokens=streamed))
            clock[0] += 5
            if streamed in (20, 310):
                live.waiting(None)
        live.waiting(replace(WAIT, began=2000.0))
    assert out.getvalue().splitlines() == [
        "asking the agent: turn 1, 0 s, 0 tokens",
        "asking the agent: turn 2, 15 s, 300 tokens",
        "asking the agent: turn 1, 0 s, 0 tokens",  # Of another conversation.
    ]


def test_line_holds_no_emoji_that_was_not_in_its_text() -> None:
    out = io.StringIO()
    with Live(Console(file=out, width=80)) as live:
        live.say("decided by openai:m: harness :bomb:")
    assert out.getvalue() == "decided by openai:m: harness :bomb:\n"


def drawn(live: Live) -> str:
    """The lines that the terminal shows below what was printed."""
    console = Console(file=io.StringIO(), width=80)
    with console.capture() as shown:
        console.print(Group(*live._progress.get_renderables()))
    return shown.get().strip()


def test_terminal_counts_seconds_while_a_reply_is_waited_for(clock: list[float]) -> None:
    out = io.StringIO()
    live = Live(Console(file=out, width=80, force_terminal=True))
    live.waiting(replace(WAIT, turn=3, tokens=12_300))
    clock[0] += 41
    assert drawn(live) == "asking the agent: turn 3, 41 s, 12,300 tokens"
    clock[0] += 1
    assert drawn(live) == "asking the agent: turn 3, 42 s, 12,300 tokens"
    live.waiting(None)
    assert drawn(live) == "" and out.getvalue() == ""
