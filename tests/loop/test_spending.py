"""The budget counts everything once, refuses a launch, stops a run, and warns in time."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from sia_core.agents.prices import OwnRates, Price
from sia_core.domain.budget import Budget
from sia_core.domain.errors import BudgetError
from sia_core.domain.rollout import Rollout
from sia_core.domain.task_config import Resources
from sia_core.domain.usage import Usage
from sia_core.loop.spending import Ledger
from sia_core.record.journal import Journal
from sia_core.report.table import spent_lines
from tests.factories import make_rollout


class Listener:
    """Reporter that keeps every message."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


class Kept:
    """Stand-in for the run's record."""

    name = "toy-1"

    def __init__(self, budget: str) -> None:
        self.config = SimpleNamespace(budget=Budget.parse(budget))
        self.files: dict[str, Any] = {}
        self.metrics: dict[str, float] = {}

    def get_json(self, name: str) -> Any:
        return self.files.get(name)

    def put_json(self, name: str, value: Any) -> None:
        self.files[name] = value

    def log_metrics(self, metrics: dict[str, float], _step: int) -> None:
        self.metrics |= metrics


@contextmanager
def opened(path: Path, kept: Kept, listener: Listener | None = None, price: Price | None = None) -> Iterator[Ledger]:
    resources = Resources(gpus=0.5, grade_gpus=1.0)
    with Journal(path) as journal:
        yield Ledger(cast("Any", kept), journal, resources, price, cast("Any", listener or Listener()))


def rollout(seed: int) -> Rollout:
    return replace(make_rollout(seed=seed), seconds=3.0, verify_seconds=1.0)


def test_rollout_is_counted_once_over_retries_and_processes(tmp_path: Path) -> None:
    kept = Kept("rollouts=10")
    with opened(tmp_path / "j.db", kept) as ledger:
        for seed in (1, 2, 2, 1):
            ledger.settle(rollout(seed))
        ledger.record(1)
    with opened(tmp_path / "j.db", kept) as ledger:  # The next sitting, on this machine.
        ledger.settle(rollout(1))
        tokens = rollout(1).tokens + rollout(2).tokens
        assert ledger.spent()["rollouts"] == Usage(2, tokens, 0.0, 4.0, 2.0)
        assert ledger.spent()["verification"] == Usage(0, 0, 0.0, 2.0, 2.0)
    with opened(tmp_path / "elsewhere.db", kept) as ledger:  # And on another, where the journal is not.
        assert ledger.spent()["rollouts"].rollouts == 2
        ledger.settle(rollout(3))
        assert ledger.spent()["rollouts"].rollouts == 3
        ledger.record(2)
    with opened(tmp_path / "j.db", kept) as ledger:  # Back again.
        assert ledger.spent()["rollouts"].rollouts == 3
    assert kept.metrics["spent.rollouts.rollouts"] == 3


def test_launch_beyond_the_budget_is_refused_with_the_resume_command(tmp_path: Path) -> None:
    with opened(tmp_path / "j.db", Kept("rollouts=10,tokens=1e9")) as ledger:
        ledger.settle(rollout(1))
        ledger.reserve("execute", 9)
        with pytest.raises(BudgetError, match="1 of 10 rollouts are spent, and the gate takes 10 rollouts") as refused:
            ledger.reserve("the gate", 10)
    assert refused.value.hint == "sia resume toy-1 --budget rollouts=20,tokens=1e+09"
    assert refused.value.exit_code == 11


@pytest.mark.parametrize(
    ("budget", "key", "amounts"),
    [
        ("tokens=1000", "agents", Usage(tokens=1000)),
        ("dollars=2", "agents", Usage(dollars=2.5)),
        ("gpu_hours=1", "training", Usage(seconds=7200, gpu_seconds=3600)),
    ],
)
def test_launches_are_refused_once_a_limit_is_reached(tmp_path: Path, budget: str, key: Any, amounts: Usage) -> None:
    with opened(tmp_path / "j.db", Kept(budget)) as ledger:
        ledger.reserve("execute", 100)
        assert ledger.used_up() is None
        ledger.spend("once", key, amounts)
        ledger.spend("once", key, amounts)
        assert ledger.spent()[key] == amounts
        assert ledger.used_up() is not None
        with pytest.raises(BudgetError, match=f"{budget.partition('=')[0]} are spent, and execute would start"):
            ledger.reserve("execute", 1)


def test_budget_warnings_come_once_at_half_and_at_four_fifths(tmp_path: Path) -> None:
    listener, kept = Listener(), Kept("rollouts=10")
    with opened(tmp_path / "j.db", kept, listener) as ledger:
        for seed in range(9):
            ledger.settle(rollout(seed))
    with opened(tmp_path / "j.db", kept, listener) as ledger:
        ledger.settle(rollout(9))
    assert listener.said == [
        "budget: 5 of 10 rollouts are spent (50%)",
        "budget: 8 of 10 rollouts are spent (80%)",
    ]


def test_time_of_an_interrupted_process_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("sia_core.loop.spending.time.monotonic", lambda: now[0])
    kept = Kept("hours=1")
    for sitting in range(3):
        with opened(tmp_path / "j.db", kept) as ledger:
            assert ledger.wall_s == sitting * 1800
            now[0] += 1800
            assert (ledger.used_up() is None) == (sitting < 1)
            ledger.close()


def test_generation_beyond_the_budget_names_the_lacking_limit(tmp_path: Path) -> None:
    tokens = rollout(0).tokens
    with opened(tmp_path / "j.db", Kept(f"rollouts=100,tokens={30 * tokens}")) as ledger:
        assert ledger.lacks(100) is None  # Nothing is known of tokens yet.
        assert "rollouts: 101 would be spent, 100 may be" in (ledger.lacks(101) or "")
        for seed in range(10):
            ledger.settle(rollout(seed))
        assert ledger.lacks(20) is None
        assert (ledger.lacks(21) or "").startswith("tokens")


def test_paid_policy_costs_money(tmp_path: Path) -> None:
    price = OwnRates(input=1.0, output=10.0).price()
    turn = replace(make_rollout().turns[0], prompt_ids=None, output_ids=None, prompt_tokens=1000, output_tokens=100)
    with opened(tmp_path / "j.db", Kept("dollars=1"), price=price) as ledger:
        ledger.settle(replace(rollout(1), turns=(turn, turn)))
        assert ledger.spent()["rollouts"].dollars == pytest.approx(2 * (1000 + 10 * 100) / 1e6)


def test_spending_is_shown_with_shares_of_the_budget(tmp_path: Path) -> None:
    kept = Kept("rollouts=40,dollars=10")
    with opened(tmp_path / "j.db", kept) as ledger:
        for seed in range(10):
            ledger.settle(rollout(seed))
        ledger.spend("agent/1/0", "agents", Usage(tokens=5000, dollars=1.25))
        ledger.record(1)
    first, second = spent_lines(kept.files["spending.json"], kept.config.budget)
    assert "10 rollouts" in first and "1.25 dollars" in first and "verification 0.2 min" in first
    assert second == "budget: 25% of 40 rollouts, 12% of 10 dollars"
    assert len(spent_lines(kept.files["spending.json"], Budget())) == 1
