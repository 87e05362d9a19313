"""Define errors that you can act on, one class per boundary crossed, each with its exit code.

A message says what happened, where, and what to do next. A failed rollout is data (`rollout.Failure`) and never an
exception that ends a run; an exception of this module ends the command.
"""

from typing import ClassVar


class SiaError(Exception):
    """Base of every error the command line prints without a traceback."""

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what, self.where, self.hint = what, where, hint

    def then(self, command: str) -> None:
        """Add a command to the hint, unless the hint names it already."""
        if command not in self.hint:
            self.hint = f"{self.hint}; then: {command}" if self.hint else command

    def __reduce__(self) -> tuple[object, ...]:
        # Raised in Ray workers and rebuilt in the driver: keyword arguments must survive.
        return (_rebuild, (type(self), self.what, self.where, self.hint))

    def __str__(self) -> str:
        where = f"{self.where}: " if self.where else ""
        hint = f"\n  next: {self.hint}" if self.hint else ""
        return f"{where}{self.what}{hint}"


def _rebuild(kind: type[SiaError], what: str, where: str, hint: str) -> SiaError:
    return kind(what, where=where, hint=hint)


class UsageError(SiaError):
    """An option or argument is invalid."""

    exit_code = 2


class TaskError(SiaError):
    """A task is missing, malformed or unsound."""

    exit_code = 3


class HarnessError(SiaError):
    """A harness cannot be loaded, or rewritten as requested."""

    exit_code = 4


class PolicyError(SiaError):
    """A policy, model file or adapter cannot be used."""

    exit_code = 5


class SandboxError(SiaError):
    """No sandbox of the requested tier is available."""

    exit_code = 6


class RecordError(SiaError):
    """A run is unknown, finished or held by another process, or a store cannot be used."""

    exit_code = 7


class HeldError(RecordError):
    """Another process holds the run or has taken it over, so this process may not write its record."""


class ServiceError(SiaError):
    """A server (Prefect, MLflow, Ray) cannot be started or reached."""

    exit_code = 8


class FetchError(SiaError):
    """Data or a model could not be fetched, or has the wrong digest."""

    exit_code = 9


class LeakError(SiaError):
    """Private data of a task appeared outside its verifier, so the run can no longer be trusted."""

    exit_code = 10


class BudgetError(SiaError):
    """The run's budget is used up; you can resume the run with a larger budget."""

    exit_code = 11


INTERRUPTED = 130
"""Exit code after Ctrl-C; the run can be resumed."""
