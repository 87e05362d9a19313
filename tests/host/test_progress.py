"""The wait for a model's reply, in words."""

from dataclasses import replace

import pytest

from sia_core.host.progress import Wait

WAIT = Wait("asking the agent", 3, 12_300, began=1000.0)


@pytest.mark.parametrize(
    ("now", "lasted"), [(1041.4, "41 s"), (1000.0, "0 s"), (900.0, "0 s"), (1119.0, "119 s"), (1150.0, "2.5 min")]
)
def test_wait_is_described_by_turn_time_and_tokens(now: float, lasted: str) -> None:
    assert WAIT.describe(now) == f"asking the agent: turn 3, {lasted}, 12,300 tokens"


def test_wait_for_a_first_harness_keeps_its_label() -> None:
    first = replace(WAIT, label="asking the agent for the first harness", turn=2, tokens=0)
    assert first.describe(1001.0) == "asking the agent for the first harness: turn 2, 1 s, 0 tokens"
