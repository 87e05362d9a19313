"""Test the limits on what a run may spend, and their text."""

import pytest

from sia_core.domain.budget import Budget, read_spent, total
from sia_core.domain.errors import UsageError
from sia_core.domain.json_data import write
from sia_core.domain.usage import Usage


def test_limits_are_read_and_printed_the_same() -> None:
    budget = Budget.parse("rollouts=5000, tokens=2e6,gpu-hours=1.5")
    assert budget == Budget(rollouts=5000, tokens=2_000_000, gpu_hours=1.5)
    assert Budget.parse(str(budget)) == budget
    assert Budget.parse("") == Budget() and str(Budget()) == ""


@pytest.mark.parametrize("text", ["rollouts", "rollouts=many", "euros=5", "tokens=0", "hours=-1", "dollars=nan"])
def test_impossible_limits_are_refused(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        Budget.parse(text)
    assert refused.value.where == "--budget" and "rollouts=5000" in refused.value.hint


def test_shares_of_what_is_limited() -> None:
    spent = {"rollouts": Usage(90, 1000, 0.5, 60.0, 1800.0), "agents": Usage(tokens=500, dollars=1.5)}
    budget = Budget(tokens=3000, dollars=4, gpu_hours=1, hours=2)
    shares = list(budget.shares(total(spent), wall_s=3600.0))  # type: ignore[arg-type]
    assert shares == [("tokens", 1500, 3000), ("dollars", 2.0, 4), ("gpu_hours", 0.5, 1), ("hours", 1.0, 2)]


def test_amounts_add_up_and_come_back() -> None:
    one, two = Usage(1, 10, 0.1, 5.0, 0.0), Usage(2, 5, 0.2, 1.0, 3.0)
    assert (one + Usage(2, 5, 0.4, 1.0, 3.0)) * 2 == Usage(6, 30, 1.0, 12.0, 6.0)
    assert one.at_least(two) == Usage(2, 10, 0.2, 5.0, 3.0)
    assert read_spent({"training": write(two)}) == {"training": two}
