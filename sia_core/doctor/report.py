"""Findings of `sia doctor`: one line for each subject, and a command to type where something needs a fix."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warning", "failed"]
"""`failed`: a run cannot start. `warning`: it can, but something is missing or unlike what was tested."""


@dataclass(frozen=True)
class Finding:
    """Finding on one subject."""

    subject: str
    status: Status
    seen: str
    fix: str = ""
    """Command or action that fixes the problem; empty where there is nothing to do."""
    code: int = 0
    """Exit code of a run that fails for this; 0 unless it failed."""


def exit_code(findings: Sequence[Finding]) -> int:
    """0 when a run can start, else that of the first finding that keeps it from it."""
    return next((finding.code for finding in findings if finding.status == "failed"), 0)
