"""Protocol for traces of an agent's calls; the record implements it with MLflow."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, Literal, Protocol

from sia_core.policy.protocol import Completion

SpanKind = Literal["AGENT", "LLM", "TOOL"]


class Span(Protocol):
    """One traced call."""

    def end(self, output: Any, completion: Completion | None = None) -> None:
        """Say what came of it, and what it took of the model."""


class Trace(Protocol):
    """A tree of spans. An exception marks its span as failed."""

    @contextmanager
    def span(self, kind: SpanKind, name: str, inputs: Mapping[str, Any]) -> Iterator[Span]:
        """A span below the one that is open."""


class _NoSpan:
    def end(self, output: Any, completion: Completion | None = None) -> None:
        """Nothing is kept."""


class _NoTrace:
    @contextmanager
    def span(self, kind: SpanKind, name: str, inputs: Mapping[str, Any]) -> Iterator[Span]:  # noqa: ARG002
        """Nothing is kept."""
        yield _NoSpan()


NO_TRACE: Final[Trace] = _NoTrace()
