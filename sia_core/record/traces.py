"""Write MLflow traces of an agent's calls, linked to the run, during each call, so a hanging call is visible."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from mlflow.entities import Span

from sia_core.record.store import RunRecord
from sia_core.record.tags import Tag

USAGE = "mlflow.chat.tokenUsage"
"""Attribute that MLflow's UI sums over a trace."""


class RunTrace:
    """The `Trace` of one run. Spans nest in the order in which they are opened; one thread at a time."""

    def __init__(self, run: RunRecord) -> None:
        self._run = run
        self._client = run.record.client
        self._open: list[Span] = []

    @contextmanager
    def span(self, kind: str, name: str, inputs: Mapping[str, Any]) -> Iterator["_Made"]:
        """Implement `Trace.span`."""
        live = self._start(kind, name, dict(inputs))
        self._open.append(live)
        span = _Made()
        status = "OK"
        try:
            yield span
        except BaseException:
            status = "ERROR"
            raise
        finally:
            self._open.pop()
            self._end(live, span, status)

    def _start(self, kind: str, name: str, inputs: dict[str, Any]) -> Span:
        if self._open:
            above = self._open[-1]
            below: Span = self._client.start_span(name, above.trace_id, above.span_id, span_type=kind, inputs=inputs)
            return below
        tags = {Tag.RUN: self._run.name}
        root: Span = self._client.start_trace(
            name,
            span_type=kind,
            inputs=inputs,
            tags=tags,
            experiment_id=self._run.experiment_id,
            run_id=self._run.run_id,
        )
        return root

    def _end(self, live: Span, span: "_Made", status: str) -> None:
        attributes = {USAGE: span.usage} if span.usage else {}
        if self._open:
            self._client.end_span(live.trace_id, live.span_id, span.output, attributes, status)
        else:
            self._client.end_trace(live.trace_id, span.output, attributes, status)


class _Made:
    def __init__(self) -> None:
        self.output: Any = None
        self.usage: dict[str, int] = {}

    def end(self, output: Any, completion: Any = None) -> None:
        """Implement `Span.end`."""
        self.output = output
        if completion is not None:
            taken = completion.prompt_tokens + completion.output_tokens
            self.usage = {
                "input_tokens": completion.prompt_tokens,
                "output_tokens": completion.output_tokens,
                "total_tokens": taken,
            }
