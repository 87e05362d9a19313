"""The Meta-Agent: writes a task's first harness from its description, for tasks that bring none.

It sees the description, the shape of the problems and their public parts on the training split, and what a harness
may use. What it writes climbs the same validation as a rewrite; what fails comes back with the reason.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files as package_files
from typing import Any

from pydantic import Field

from sia_core.agents.conversation import Allowance, Conversation, NoSubmissionError, SubmissionError, Submit
from sia_core.agents.library import ReadingError
from sia_core.agents.prices import Price
from sia_core.agents.protocol import NoDecisionError
from sia_core.agents.quote import RULE, elide, quote
from sia_core.agents.record import Keep, conversation_record
from sia_core.agents.schema import describe_problems
from sia_core.agents.tools import Arguments, Tool
from sia_core.agents.tracing import NO_TRACE, Trace
from sia_core.errors import HarnessError
from sia_core.harness import Harness
from sia_core.hashing import canonical_json, derive_seed
from sia_core.policy.protocol import Policy
from sia_core.progress import SILENT, Reporter
from sia_core.task import Problem

_TEXT, _SAMPLE, _SAMPLES, _LISTED = 12_000, 3000, 2, 100


@dataclass(frozen=True)
class Brief:
    """All that the Meta-Agent is told."""

    task: str
    """The task's description."""
    metric: str
    problems: Sequence[Problem]
    """Of the training split; only their public parts are read."""
    sdk: str
    """Source of what a harness may call."""
    seed: int = 0
    references: Mapping[str, str] = field(default_factory=dict)
    """Texts that the task brings for its solvers: name -> content."""


class _File(Arguments):
    file: str = Field(description="path within the harness, such as agent.py or prompts/ask.txt")
    text: str


class Draft(Arguments):
    """The arguments of submit_harness."""

    files: list[_File] = Field(min_length=2, description="all files of the harness, harness.toml among them")
    reasoning: str = Field(max_length=4000, description="how it works, and why so")


class _Problem(Arguments):
    id: str
    start: int = Field(0, ge=0)


class _Reference(Arguments):
    name: str
    start: int = Field(0, ge=0)


class MetaAgent:
    """Writes first harnesses."""

    def __init__(
        self,
        spec: str,
        model: Policy,
        *,
        allowance: Allowance,
        price: Price | None,
        keep: Keep,
        trace: Trace = NO_TRACE,
        reporter: Reporter = SILENT,
    ) -> None:
        self.spec = spec
        self._model = model
        self._allowance = allowance
        self._price = price
        self._keep = keep
        self._trace = trace
        self._reporter = reporter

    def write(self, brief: Brief, validate: Callable[[Harness], str | None]) -> Harness:
        """A harness that passes validation.

        Args:
            validate: why a harness cannot be used, or None.

        Raises:
            NoDecisionError: it wrote none.
        """
        conversation = Conversation(
            self._model,
            _tools(brief),
            seed=derive_seed(brief.seed, "meta"),
            allowance=self._allowance,
            price=self._price,
            trace=self._trace,
            reporter=self._reporter,
            label="asking the agent for the first harness",
        )
        submit = Submit(
            "submit_harness",
            "End with the harness. It is tried out; what fails comes back, three times at most.",
            Draft,
            lambda draft: _take(draft, validate),
        )
        prompt = (package_files("sia_core.agents") / "prompts" / "meta.md").read_text()
        system = prompt.format(rule=RULE, metric=brief.metric, sdk=brief.sdk)
        with self._trace.span("AGENT", "first harness", {"agent": self.spec}) as span:
            try:
                harness = conversation.run(system, _opening(brief), submit)
            except NoSubmissionError as error:
                raise NoDecisionError(str(error)) from error
            finally:
                self._keep(0, 0, conversation_record(conversation))
            span.end({"harness": harness.digest})
        return harness


def _take(draft: Draft, validate: Callable[[Harness], str | None]) -> Harness:
    try:
        harness = Harness.from_files({file.file: file.text.encode() for file in draft.files}, where="draft")
    except HarnessError as error:
        raise SubmissionError(str(error)) from error
    reason = validate(harness)
    if reason is not None:
        raise SubmissionError(reason)
    return harness


def _tools(brief: Brief) -> list[Tool[Any]]:
    return [
        Tool(
            "read_problem", "Public part of a training problem, as JSON.", _Problem, lambda given: _read(brief, given)
        ),
        Tool("read_reference", "A text that the task brings.", _Reference, lambda given: _refer(brief, given)),
    ]


def _read(brief: Brief, given: _Problem) -> str:
    problem = next((problem for problem in brief.problems if problem.id == given.id), None)
    if problem is None:
        raise ReadingError(f"no training problem {given.id!r}; there are: {_ids(brief)}")
    text = canonical_json(problem.public).decode()
    return quote(text, f"problem {problem.id}", start=given.start, limit=_TEXT)


def _refer(brief: Brief, given: _Reference) -> str:
    if given.name not in brief.references:
        raise ReadingError(f"no reference {given.name!r}; there are: {', '.join(brief.references) or 'none'}")
    return quote(brief.references[given.name], given.name, start=given.start, limit=_TEXT)


def _opening(brief: Brief) -> str:
    samples = [
        quote(canonical_json(problem.public).decode(), f"problem {problem.id}", limit=_SAMPLE)
        for problem in brief.problems[:_SAMPLES]
    ]
    return "\n\n".join(
        [
            f"# First harness\n## The task\n{elide(brief.task, _TEXT)}",
            f"## Problems\n{describe_problems(brief.problems)}\nIds: {_ids(brief)}",
            *samples,
            f"## References\n{', '.join(brief.references) or 'none'}",
        ]
    )


def _ids(brief: Brief) -> str:
    ids = [problem.id for problem in brief.problems]
    more = f" and {len(ids) - _LISTED} more" if len(ids) > _LISTED else ""
    return ", ".join(ids[:_LISTED]) + more
