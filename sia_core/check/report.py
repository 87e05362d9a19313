"""Findings of `sia check`: one for each check, in the order in which the checks ran."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Status = Literal["passed", "failed", "skipped"]


@dataclass(frozen=True)
class Finding:
    """The outcome of one check."""

    check: str
    status: Status
    seen: str
    """Summary of what the check looked at and found, in one line."""
    hint: str = ""
    """Advice on how to fix a failure, or how to make a skipped check possible."""


@dataclass(frozen=True)
class Report:
    """All findings on one task."""

    task: str
    digest: str
    findings: tuple[Finding, ...]
    sound: bool
    """False if a check failed."""

    @property
    def failed(self) -> tuple[Finding, ...]:
        """Findings that say the task is unsound."""
        return tuple(finding for finding in self.findings if finding.status == "failed")


Tell = Callable[[Finding], None]
"""Receives each finding immediately."""


def outcome(check: str, faults: list[str], seen: str, hint: str) -> Finding:
    """Make a finding: failed with the first few faults, or passed."""
    if not faults:
        return Finding(check, "passed", seen)
    more = f" (and {len(faults) - 3} more)" if len(faults) > 3 else ""
    return Finding(check, "failed", "; ".join(faults[:3]) + more, hint)
