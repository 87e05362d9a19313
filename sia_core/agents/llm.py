"""The Feedback-Agent that is a language model: it reads through tools, then submits a checked decision."""

from dataclasses import asdict
from importlib.resources import files

from sia_core.agents.conversation import Allowance, Conversation, NoSubmissionError, Submit
from sia_core.agents.library import Library, as_record
from sia_core.agents.opening import opening
from sia_core.agents.prices import Price
from sia_core.agents.protocol import NoDecisionError, Situation
from sia_core.agents.quote import RULE
from sia_core.agents.record import Keep, conversation_record
from sia_core.agents.source import Source
from sia_core.agents.submission import Submission, describe_update, take
from sia_core.agents.tools import reading_tools
from sia_core.agents.tracing import NO_TRACE, Trace
from sia_core.generation import Decision
from sia_core.hashing import derive_seed
from sia_core.policy.protocol import Policy
from sia_core.progress import SILENT, Reporter


class LlmAgent:
    """The agent behind specs like `anthropic:MODEL`."""

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

    def decide(self, situation: Situation, source: Source) -> Decision:
        """Read, then decide."""
        library = Library(source, situation.generation)
        conversation = Conversation(
            self._model,
            reading_tools(library),
            seed=derive_seed(situation.seed, "feedback", situation.generation, len(situation.siblings)),
            allowance=self._allowance,
            price=self._price,
            trace=self._trace,
            reporter=self._reporter,
        )
        submit = Submit(
            "submit_decision",
            "End with your decision. What is wrong with it comes back, three times at most.",
            Submission,
            lambda given: take(given, situation, library, source, self.spec),
        )
        with self._trace.span("AGENT", f"decide {situation.generation}", {"agent": self.spec}) as span:
            try:
                decision = conversation.run(system_prompt(situation), opening(situation, library), submit)
            except NoSubmissionError as error:
                raise NoDecisionError(str(error)) from error
            finally:
                record = conversation_record(conversation, coverage=as_record(library.coverage))
                self._keep(situation.generation, len(situation.siblings), record)
            span.end(asdict(decision))
        return decision


def system_prompt(situation: Situation) -> str:
    """The same for every generation of a run, so that a provider's cache holds it."""
    text = (files("sia_core.agents") / "prompts" / "feedback.md").read_text()
    updates = describe_update(situation.updates) or "none: this policy cannot be trained"
    return text.format(rule=RULE, levers=", ".join(situation.levers), metric=situation.metric, updates=updates)
