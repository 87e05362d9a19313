"""The Meta-Agent: writes a task's first harness from its description, for tasks that bring none.

The Meta-Agent reads the description, the shape and public parts of the training problems, and the reference of a
harness, and may play drafts before it submits one. A submission passes the same validation as a rewrite; its
faults come back.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files as package_files
from typing import Protocol

from pydantic import Field

from sia_core.agents.conversation import ATTEMPTS, NoSubmissionError, SubmissionError, Submit
from sia_core.agents.library import ReadingError, Ref
from sia_core.agents.protocol import NoDecisionError
from sia_core.agents.quote import RULE, elide, quote
from sia_core.agents.record import ModelAgent, conversation_record
from sia_core.agents.schema import describe_problems
from sia_core.agents.source import Materials
from sia_core.agents.tools import Arguments
from sia_core.agents.trial import Left, Trial
from sia_core.agents.trying import listed, material_tools, try_tool
from sia_core.domain.errors import HarnessError
from sia_core.domain.harness import Harness
from sia_core.domain.hashing import canonical_json, derive_seed
from sia_core.domain.lineage import DRAFT_ID
from sia_core.domain.task import Problem
from sia_core.domain.text_files import normalised_text

_TEXT, _SAMPLE, _SAMPLES = 12_000, 3000, 2


@dataclass(frozen=True)
class Brief:
    """Everything that the Meta-Agent is given."""

    task: str
    """The task's description."""
    metric: str
    problems: Sequence[Problem]
    """Problems of the training split; only their public parts are read."""
    reference: str
    """The page of `agents.reference`."""
    materials: Materials
    seed: int = 0
    attempt: int = 0
    """Earlier attempts of the run that ended without a harness; each attempt is a new conversation."""


class FirstBench(Protocol):
    """The place where first harnesses are validated and played."""

    @property
    def left(self) -> Left:
        """The rest of the allowance for trials."""

    def faults(self, harness: Harness) -> Sequence[str]:
        """List why a harness cannot be used; empty where it can."""

    def play(self, harness: Harness, problems: Sequence[str], rollouts: int) -> Trial:
        """Play a draft within the allowance."""


class _File(Arguments):
    file: str = Field(description="path within the harness, such as agent.py or prompts/ask.txt")
    text: str


class FirstHarness(Arguments):
    """The arguments of submit_harness."""

    files: list[_File] = Field([], description="files of the harness: all of them, or those that differ from the base")
    base: Ref | None = Field(None, description="a draft that was tried, as `draft ID`, whose other files are kept")
    reasoning: str = Field(max_length=4000, description="how it works, and why so")


@dataclass
class _Drafts:
    """Drafts of this conversation, as `trying.Playing`."""

    bench: FirstBench
    tried: dict[str, Harness] = field(default_factory=dict)

    def harness(self, base: Ref | None, parent: int | None) -> Harness:
        """Implement `trying.Playing.harness`; return an empty harness where there is no base."""
        if parent is not None:
            raise ReadingError("there is no lineage yet: leave parent out")
        if base is None:
            return Harness({})
        name = str(base).removeprefix("draft").strip()
        found = [harness for digest, harness in self.tried.items() if name and digest.startswith(name)]
        if len(found) != 1:
            known = [f"draft {digest[:DRAFT_ID]}" for digest in self.tried]
            raise ReadingError(f"{len(found)} drafts are named {base!r}; there are: {listed(known)}")
        return found[0]

    def play(self, draft: Harness, parent: int | None, problems: Sequence[str], rollouts: int) -> Trial:
        """Implement `trying.Playing.play`."""
        if parent is not None:
            raise ReadingError("there is no lineage yet: leave parent out")
        self.tried[draft.digest] = draft
        return self.bench.play(draft, problems, rollouts)

    def left(self) -> Left:
        """Implement `trying.Playing.left`."""
        return self.bench.left


class FirstWriter(Protocol):
    """An agent that writes first harnesses."""

    spec: str

    def write(self, brief: Brief, bench: FirstBench) -> Harness:
        """Write a harness that passes validation. Raises NoDecisionError where it wrote none."""


class MetaAgent(ModelAgent):
    """The Meta-Agent that is a language model."""

    def write(self, brief: Brief, bench: FirstBench) -> Harness:
        """Write a harness that passes validation.

        Raises:
            NoDecisionError: the model wrote none.
        """
        drafts = _Drafts(bench)
        tools = [*material_tools(brief.materials), try_tool(drafts, [problem.id for problem in brief.problems])]
        label = "asking the agent for the first harness"
        conversation = self.conversation(tools, _seed(brief), label)
        submit = Submit(
            "submit_harness",
            f"End with the harness. It is validated; its faults come back, {ATTEMPTS} submissions are taken at most.",
            FirstHarness,
            lambda given: _take(given, drafts),
        )
        prompt = (package_files("sia_core.agents") / "prompts" / "meta.md").read_text()
        system = prompt.format(rule=RULE, metric=brief.metric, reference=brief.reference)
        with self.trace.span("AGENT", "first harness", {"agent": self.spec}) as span:
            try:
                harness = conversation.run(system, _opening(brief, bench.left), submit)
            except NoSubmissionError as error:
                raise NoDecisionError(str(error)) from error
            finally:
                self.keep(0, brief.attempt, conversation_record(conversation))
            span.end({"harness": harness.digest})
        return harness


def _seed(brief: Brief) -> int:
    again = (brief.attempt,) if brief.attempt else ()
    return derive_seed(brief.seed, "meta", *again)


def _take(given: FirstHarness, drafts: _Drafts) -> Harness:
    try:
        kept = drafts.harness(given.base, None).files
        new = {file.file: normalised_text(file.text).encode() for file in given.files}
        harness = Harness.from_files({**kept, **new}, where="draft")
    except (HarnessError, ReadingError) as error:
        raise SubmissionError(str(error)) from error
    faults = drafts.bench.faults(harness)
    if faults:
        raise SubmissionError("\n".join(f"- {fault}" for fault in faults))
    return harness


def _opening(brief: Brief, left: Left) -> str:
    samples = [
        quote(canonical_json(problem.public).decode(), f"problem {problem.id}", limit=_SAMPLE)
        for problem in brief.problems[:_SAMPLES]
    ]
    return "\n\n".join(
        [
            f"# First harness\n## The task\n{elide(brief.task, _TEXT)}",
            f"## Problems\n{describe_problems(brief.problems)}\n"
            f"Ids: {listed([problem.id for problem in brief.problems])}",
            *samples,
            f"## Texts to read\n{listed(list(brief.materials.texts()))}",
            f"## Trials\n{left}",
        ]
    )
