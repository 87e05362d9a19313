"""Enforce a run's budget: keep the spending in the journal, show it in MLflow, and refuse what would exceed it."""

import os
import time
from typing import Any

from sia_core.agents.prices import Price
from sia_core.agents.trial import coarse_time
from sia_core.domain.budget import ROLES, Budget, Role, read_spent, total
from sia_core.domain.command import command
from sia_core.domain.errors import BudgetError
from sia_core.domain.json_data import write
from sia_core.domain.rollout import Rollout
from sia_core.domain.task_config import Resources
from sia_core.domain.usage import Usage
from sia_core.host.progress import Reporter
from sia_core.record.journal import Journal
from sia_core.record.store import RunRecord

WARN_AT = (0.5, 0.8)
_WALL = "wall"
_FILE = "spending.json"


class Ledger:
    """Ledger of one run's spending and budget; opened with the run's session."""

    def __init__(
        self, run: RunRecord, journal: Journal, resources: Resources, price: Price | None, reporter: Reporter
    ) -> None:
        self.budget: Budget = run.config.budget
        self._run, self._journal, self._reporter = run, journal, reporter
        self._resources, self._price = resources, price
        here = journal.spent()
        self._began = time.monotonic()
        self._sitting = f"{os.getpid()}-{time.time_ns()}"
        kept: dict[str, Any] = run.get_json(_FILE) or {}
        # MLflow has sessions of other machines, this journal has sessions that were interrupted.
        before = read_spent(kept.get("roles", {}))
        self._spent = {role: here.get(role, Usage()).at_least(before.get(role, Usage())) for role in ROLES}
        self._wall_before = max(here.get(_WALL, Usage()).seconds, float(kept.get("wall_seconds", 0.0)))
        self._warned = {name: amount / limit for name, amount, limit in self._shares()}
        """Share of each limit that was spent at the last warning."""

    def spent(self) -> dict[Role, Usage]:
        """Return the amounts spent so far, by role; `connect` only for models behind servers."""
        return {role: used for role, used in self._spent.items() if role != "connect" or used != Usage()}

    @property
    def wall_s(self) -> float:
        """Wall clock of all sessions."""
        return self._wall_before + time.monotonic() - self._began

    def settle(self, rollout: Rollout) -> bool:
        """Put a finished rollout and its cost into the journal; return False if it was already there."""
        cost = self._cost(rollout)
        if not self._journal.put(rollout, cost):
            return False
        for role, amounts in cost.items():
            self._spent[role] += amounts
        self._warn()
        return True

    def _cost(self, rollout: Rollout) -> dict[Role, Usage]:
        played = rollout.seconds - rollout.verify_seconds
        price, turns = self._price, rollout.turns
        dollars = sum(price.of(turn.prompt_tokens, turn.output_tokens) for turn in turns) if price else 0.0
        return {
            "rollouts": Usage(1, rollout.tokens, dollars, played, played * self._resources.gpus),
            "verification": Usage(
                seconds=rollout.verify_seconds,
                gpu_seconds=rollout.verify_seconds * (self._resources.grade_gpus or self._resources.gpus),
            ),
        }

    def spend(self, key: str, role: Role, amounts: Usage) -> None:
        """Note what something other than a rollout has cost; a key counts once."""
        before = self._journal.spent().get(role, Usage())
        self._journal.spend(key, role, amounts)
        self._spent[role] += self._journal.spent()[role] + before * -1
        self._warn()

    def reserve(self, what: str, rollouts: int) -> None:
        """Refuse a launch that would exceed the budget.

        Raises:
            BudgetError: the launch would exceed the budget, or the budget is used up.
        """
        limit = self.budget.rollouts
        done = total(self.spent()).rollouts
        if limit is not None and done + rollouts > limit:
            raise self._refusal(f"{what} takes {rollouts} rollouts", "rollouts", done, limit)
        self.check(what)

    def check(self, what: str) -> None:
        """Refuse to start anything once a limit is reached.

        Raises:
            BudgetError: a limit is reached.
        """
        used = self.used_up()
        if used is not None:
            raise self._refusal(f"{what} would start", *used)

    def used_up(self) -> tuple[str, float, float] | None:
        """Return name, amount and limit of a used-up limit other than rollouts, which `reserve` refuses."""
        return next((one for one in self._shares() if one[0] != "rollouts" and one[1] >= one[2]), None)

    def lacks(self, planned: int) -> str | None:
        """Return the limit that more rollouts would exceed, at the mean cost so far, or None."""
        spent = total(self.spent())
        share = planned / spent.rollouts if spent.rollouts else 0.0
        after = spent + spent * share
        after = after.at_least(Usage(rollouts=spent.rollouts + planned))
        for name, amount, limit in self.budget.shares(after, self.wall_s * (1 + share)):
            if amount > limit:
                return f"{name}: {amount:.6g} would be spent, {limit:g} may be"
        return None

    def describe(self) -> str:
        """Describe the spending, the rest of each limit, and the mean time of a rollout.

        An agent reads the text. Times are coarse, and contacts with servers do not count, so that a resumed or
        replayed conversation asks the same.
        """
        counted: dict[Role, Usage] = {role: used for role, used in self.spent().items() if role != "connect"}
        spent = total(counted)
        played = self.spent()["rollouts"].seconds + self.spent()["verification"].seconds
        each = f", {coarse_time(played / spent.rollouts)} a rollout with its verification" if spent.rollouts else ""
        said = (
            f"spent so far: {spent.rollouts:.0f} rollouts, {spent.tokens:.0f} tokens, {spent.dollars:.2f} dollars{each}"
        )
        limits = [
            f"{name} {limit - amount:{'.1f' if name.endswith('hours') else '.6g'}} of {limit:g}"
            for name, amount, limit in self.budget.shares(spent, self.wall_s)
        ]
        return f"{said}; left: {', '.join(limits) or 'no limit is set'}"

    def record(self, step: int) -> None:
        """Write the amounts spent so far to MLflow."""
        roles, wall = {role: write(amounts) for role, amounts in self.spent().items()}, self.wall_s
        self.close()
        self._run.put_json(_FILE, {"roles": roles, "wall_seconds": wall})
        metrics = {
            f"spent.{role}.{name}": value for role, amounts in roles.items() for name, value in amounts.items() if value
        }
        self._run.log_metrics({**metrics, "spent.wall_seconds": wall}, step)

    def close(self) -> None:
        """Store how long this process has driven the run."""
        self._journal.spend(self._sitting, _WALL, Usage(seconds=time.monotonic() - self._began))

    def _shares(self) -> list[tuple[str, float, float]]:
        return list(self.budget.shares(total(self.spent()), self.wall_s))

    def _warn(self) -> None:
        for name, amount, limit in self._shares():
            passed = [mark for mark in WARN_AT if self._warned.get(name, 0.0) < mark <= amount / limit]
            if passed:
                self._reporter.say(f"budget: {amount:.6g} of {limit:g} {name} are spent ({amount / limit:.0%})")
            self._warned[name] = max(self._warned.get(name, 0.0), amount / limit)

    def _refusal(self, what: str, name: str, amount: float, limit: float) -> BudgetError:
        more = Budget.model_validate({**self.budget.model_dump(), name: 2 * limit})
        return BudgetError(
            f"{amount:.6g} of {limit:g} {name} are spent, and {what}",
            where=self._run.name,
            hint=command("sia", "resume", self._run.name, "--budget", str(more).replace(", ", ",")),
        )
