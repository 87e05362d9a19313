"""Describe a run's spending in lines of text."""

from collections.abc import Mapping
from typing import Any

from sia_core.domain.budget import HOUR, Budget, read_spent, total


def spent_lines(kept: Mapping[str, Any], budget: Budget) -> list[str]:
    """Return lines with totals, time by role, and shares of the budget.

    Args:
        kept: the run's `spending.json`.
        budget: budget of the run.
    """
    roles = read_spent(kept["roles"])
    whole, wall = total(roles), kept["wall_seconds"]
    parts = [f"{whole.rollouts:.0f} rollouts", f"{whole.tokens:.0f} tokens", f"{wall / 60:.1f} min"]
    if whole.dollars:
        parts.append(f"{whole.dollars:.2f} dollars")
    if whole.gpu_seconds:
        parts.append(f"{whole.gpu_seconds / HOUR:.2f} GPU hours")
    by_role = ", ".join(f"{role} {amounts.seconds / 60:.1f} min" for role, amounts in roles.items() if amounts.seconds)
    lines = [f"spent: {', '.join(parts)}; side by side: {by_role}"]
    limits = [f"{amount / limit:.0%} of {limit:g} {name}" for name, amount, limit in budget.shares(whole, wall)]
    return [*lines, f"budget: {', '.join(limits)}"] if limits else lines
