"""The Feedback-Agent with a language model, which reads through tools and then submits a checked decision."""

from collections.abc import Sequence
from dataclasses import asdict
from importlib.resources import files

from sia_core.agents.conversation import ATTEMPTS, NoSubmissionError, Submit
from sia_core.agents.library import Library, ReadingError, Ref
from sia_core.agents.opening import opening
from sia_core.agents.protocol import NoDecisionError, Situation
from sia_core.agents.quote import RULE
from sia_core.agents.record import ModelAgent, conversation_record
from sia_core.agents.source import Source
from sia_core.agents.submission import Submission, describe_update, take
from sia_core.agents.tools import reading_tools
from sia_core.agents.trial import Left, Trial
from sia_core.agents.trying import material_tools, try_tool
from sia_core.domain.harness import Harness
from sia_core.domain.hashing import derive_seed
from sia_core.domain.lineage import Decision


class LlmAgent(ModelAgent):
    """The agent behind specs like `anthropic:MODEL`."""

    def decide(self, situation: Situation, source: Source) -> Decision:
        """Let the model read, then decide."""
        library = Library(source, situation.generation)
        tried = list(situation.problems)
        conversation = self.conversation(
            [*reading_tools(library), *material_tools(source), try_tool(Playing(situation, library, source), tried)],
            derive_seed(situation.seed, "feedback", situation.generation, len(situation.siblings)),
        )
        submit = Submit(
            "submit_decision",
            f"End with your decision. All that is wrong with it comes back; {ATTEMPTS} submissions are taken at most.",
            Submission,
            lambda given: take(given, situation, library, source, self.spec),
        )
        with self.trace.span("AGENT", f"decide {situation.generation}", {"agent": self.spec}) as span:
            try:
                decision = conversation.run(system_prompt(situation), opening(situation, library), submit)
            except NoSubmissionError as error:
                raise NoDecisionError(str(error)) from error
            finally:
                record = conversation_record(conversation, coverage=library.coverage.record())
                self.keep(situation.generation, len(situation.siblings), record)
            span.end(asdict(decision))
        return decision


def system_prompt(situation: Situation) -> str:
    """Build the system prompt, equal for every generation of a run so that a provider can cache it."""
    text = (files("sia_core.agents") / "prompts" / "feedback.md").read_text()
    updates = describe_update(situation.updates) or "none: this policy cannot be trained"
    levers = ", ".join(situation.levers)
    return text.format(
        rule=RULE, levers=levers, metric=situation.metric, updates=updates, reference=situation.reference
    )


class Playing:
    """Drafts of the Feedback-Agent: edits of any harness of the run, compared with a node."""

    def __init__(self, situation: Situation, library: Library, source: Source) -> None:
        self._situation, self._library, self._source = situation, library, source

    def harness(self, base: Ref | None, parent: int | None) -> Harness:
        """Implement `trying.Playing.harness`."""
        if base is not None:
            return self._library.harness(base)
        return self._situation.harness if parent is None else self._library.candidate(parent)

    def play(self, draft: Harness, parent: int | None, problems: Sequence[str], rollouts: int) -> Trial:
        """Implement `trying.Playing.play`."""
        node = self._situation.executed if parent is None else parent
        if not 0 <= node < len(self._situation.nodes):
            raise ReadingError(
                f"parent: there is no node {node}; the lineage has 0 to {len(self._situation.nodes) - 1}"
            )
        unknown = sorted(set(problems) - set(self._source.problem_ids()))
        if unknown:
            raise ReadingError(f"no training problems {', '.join(unknown)}; list_problems shows their names")
        return self._source.play(draft, node, problems, rollouts)

    def left(self) -> Left:
        """Implement `trying.Playing.left`."""
        return self._source.left()
