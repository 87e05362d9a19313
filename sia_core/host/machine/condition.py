"""Result of a check that found nothing to stop a run."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Condition:
    """State of one part of the machine with which a run can start."""

    seen: str
    fix: str = ""
    """Action that improves the state; the state is a warning if given."""
