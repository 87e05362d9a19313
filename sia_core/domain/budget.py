"""Define the budget of a run: its limits, and the amounts spent by each role.

A launch that would exceed a limit known beforehand (rollouts) is refused. Once a limit that only shows afterwards
(tokens, dollars, hours) is reached, nothing more is launched, and work in flight still ends. A generation that would
not fit is not started, and the run ends with its sealed test. A run that stopped within a generation can be resumed
with a larger budget.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sia_core.domain.errors import UsageError
from sia_core.domain.invalid import in_words
from sia_core.domain.json_data import read
from sia_core.domain.near import did_you_mean
from sia_core.domain.usage import Usage

Role = Literal["rollouts", "verification", "training", "agents", "connect"]
ROLES: tuple[Role, ...] = ("rollouts", "verification", "training", "agents", "connect")
HOUR = 3600.0


class Budget(BaseModel):
    """Limits of a run; None where there is none."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rollouts: float | None = Field(default=None, gt=0)
    tokens: float | None = Field(default=None, gt=0)
    """Limit on the tokens of policy and agents together."""
    dollars: float | None = Field(default=None, gt=0)
    gpu_hours: float | None = Field(default=None, gt=0)
    hours: float | None = Field(default=None, gt=0)
    """Limit on the wall clock of the run, all starts and resumes together."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse any of `rollouts=5000,tokens=2e6,dollars=5,gpu_hours=1,hours=2`.

        Raises:
            UsageError: a name is unknown, or a value is not a number above 0.
        """
        pairs = [part.partition("=")[::2] for part in text.split(",") if part.strip()]
        limits = {name.strip().replace("-", "_"): value for name, value in pairs}
        hint = "such as --budget rollouts=5000,tokens=2e6,dollars=5,gpu_hours=1,hours=2"
        unknown = [name for name in limits if name not in cls.model_fields]
        if unknown:
            what = f"unknown limit {unknown[0]!r}{did_you_mean(unknown[0], cls.model_fields)}"
            raise UsageError(what, where="--budget", hint=hint)
        try:
            return cls.model_validate(limits)
        except ValidationError as error:
            raise UsageError(in_words(error, cls), where="--budget", hint=hint) from None

    def __str__(self) -> str:
        return ", ".join(f"{name}={value:g}" for name, value in self.model_dump(exclude_none=True).items())

    def shares(self, spent: Usage, wall_s: float) -> Iterator[tuple[str, float, float]]:
        """Name, amount and limit of all that is limited.

        Args:
            spent: amounts of all roles together.
            wall_s: wall clock of all sessions.
        """
        amounts = {
            "rollouts": spent.rollouts,
            "tokens": spent.tokens,
            "dollars": spent.dollars,
            "gpu_hours": spent.gpu_seconds / HOUR,
            "hours": wall_s / HOUR,
        }
        for name, limit in self.model_dump(exclude_none=True).items():
            yield name, amounts[name], limit


def total(spent: Mapping[Role, Usage]) -> Usage:
    """Add up the amounts of all roles."""
    return sum(spent.values(), Usage())


def read_spent(data: Mapping[str, Any]) -> dict[Role, Usage]:
    """Rebuild from the JSON data of each role."""
    return {role: read(Usage, data[role]) for role in ROLES if role in data}
