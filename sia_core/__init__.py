"""Export SIA's public interface for scripts, notebooks and tasks.

Everything loads on first use, so that `import sia_core` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sia_core.api import Result, Task, evolve, load_result
    from sia_core.domain.errors import SiaError
    from sia_core.domain.lab import Lab, Limits, LiveProgram, LiveProgramLab, ProgramEndedError, SandboxResult
    from sia_core.domain.rollout import Rollout, Split, Turn, Verdict
    from sia_core.domain.stats import Estimate, Gain
    from sia_core.domain.task import Problem

__all__ = [
    "Estimate",
    "Gain",
    "Lab",
    "Limits",
    "LiveProgram",
    "LiveProgramLab",
    "Problem",
    "ProgramEndedError",
    "Result",
    "Rollout",
    "SandboxResult",
    "SiaError",
    "Split",
    "Task",
    "Turn",
    "Verdict",
    "evolve",
    "load_result",
]

_HOMES = {
    "api": ("Result", "evolve", "load_result"),
    "api.task": ("Task",),
    "domain.errors": ("SiaError",),
    "domain.lab": ("Lab", "Limits", "SandboxResult", "LiveProgram", "ProgramEndedError", "LiveProgramLab"),
    "domain.rollout": ("Rollout", "Split", "Turn", "Verdict"),
    "domain.stats": ("Estimate", "Gain"),
    "domain.task": ("Problem",),
}
"""Public names by module."""


if not TYPE_CHECKING:  # A type checker would conclude that every name exists.

    def __getattr__(name: str) -> Any:
        for module, names in _HOMES.items():
            if name in names:
                value = getattr(import_module(f"sia_core.{module}"), name)
                globals()[name] = value
                return value
        raise AttributeError(f"module 'sia_core' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
