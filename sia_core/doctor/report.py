"""Describe findings of `sia doctor`: a line for each subject, and a command that fixes it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warning", "failed"]
"""Status of a finding: with `failed` a run cannot start; with `warning` something is missing or was not tested."""


@dataclass(frozen=True)
class Finding:
    """Finding on one subject."""

    subject: str
    status: Status
    seen: str
    fix: str = ""
    """Command or action that fixes the problem, if any."""
    code: int = 0
    """Exit code of a run that fails for this reason; 0 unless failed."""


def exit_code(findings: Sequence[Finding]) -> int:
    """Return 0 if a run can start, else the code of the first failed finding."""
    return next((finding.code for finding in findings if finding.status == "failed"), 0)
