"""What `sia check` found: one finding a check, in the order in which they were made."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

Status = Literal["passed", "failed", "skipped"]


@dataclass(frozen=True)
class Finding:
    """The outcome of one check."""

    check: str
    status: Status
    seen: str
    """What was looked at and what came of it, in one line."""
    hint: str = ""
    """What to do about a failure, or how to make a skipped check possible."""


@dataclass(frozen=True)
class Report:
    """All findings on one task."""

    task: str
    digest: str
    findings: tuple[Finding, ...]

    @property
    def failed(self) -> tuple[Finding, ...]:
        """Those that say the task is unsound."""
        return tuple(finding for finding in self.findings if finding.status == "failed")

    def to_dict(self) -> dict[str, Any]:
        """JSON data."""
        return {**asdict(self), "sound": not self.failed}


Tell = Callable[[Finding], None]
"""Hears of each finding as it is made."""


def outcome(check: str, faults: list[str], seen: str, hint: str) -> Finding:
    """Failed with its first few faults, or passed with what was seen."""
    if not faults:
        return Finding(check, "passed", seen)
    more = f" (and {len(faults) - 3} more)" if len(faults) > 3 else ""
    return Finding(check, "failed", "; ".join(faults[:3]) + more, hint)
