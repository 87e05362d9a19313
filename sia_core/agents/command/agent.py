"""The Feedback-Agent that is a command of the user's."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pydantic import ValidationError

from sia_core.agents.command.contents import APART, decision_contents
from sia_core.agents.command.desk import HARNESS, Desk, Handed, is_passed_over
from sia_core.agents.command.log import Log
from sia_core.agents.command.mail import TryRequest
from sia_core.agents.command.rounds import Rounds
from sia_core.agents.command.spec import Commanding, parse_command
from sia_core.agents.conversation import SubmissionError
from sia_core.agents.library import Library, ReadingError, as_record
from sia_core.agents.llm import Playing
from sia_core.agents.protocol import NoDecisionError, Situation
from sia_core.agents.record import Keep
from sia_core.agents.source import Source
from sia_core.agents.submission import Submission, take
from sia_core.agents.tracing import NO_TRACE, Trace
from sia_core.agents.trial import Trial
from sia_core.agents.trying import EditArgument, chosen
from sia_core.domain.errors import HarnessError
from sia_core.domain.harness import Harness
from sia_core.domain.hashing import digest_json
from sia_core.domain.lineage import Decision
from sia_core.domain.patch import edits_between
from sia_core.domain.task_config import describe_invalid
from sia_core.domain.usage import ModelUsage

_DIGITS = 12


class CommandAgent:
    """The agent behind specs like `command:mytool {prompt}`."""

    def __init__(self, spec: str, means: Commanding, *, keep: Keep, trace: Trace = NO_TRACE) -> None:
        self.spec = spec
        self._command = parse_command(spec)
        self._means = means
        self._keep = keep
        self._trace = trace

    def decide(self, situation: Situation, source: Source) -> Decision:
        """Start the command until what it hands in is taken."""
        library = Library(source, situation.generation)
        bench = _Bench(situation, library, source, self.spec)
        folder = self._means.folder / _name(situation, self.spec)
        desk = Desk(folder, self._means.jail)
        contents = decision_contents(situation, library, source, bench.executed)
        desk.lay(contents, self._means.files)
        log = Log(folder / "log.jsonl")
        rounds = Rounds(self._command, self._means, desk, log, play=bench.play, take=bench.take)
        with self._trace.span("AGENT", f"decide {situation.generation}", {"agent": self.spec}) as span:
            try:
                decision = rounds.run()
            except NoDecisionError:
                desk.clear()
                raise
            finally:
                desk.put_away_home()
                record = command_record(rounds, coverage=as_record(library.coverage))
                self._keep(situation.generation, len(situation.siblings), record)
            span.end(asdict(decision))
        desk.clear()
        return decision


def command_record(rounds: Rounds[Any], **more: Any) -> dict[str, Any]:
    """Rounds of a command as JSON data: their outputs and ends. What its own model took is not known."""
    return {
        "messages": [],
        "usage": asdict(ModelUsage(requests=len(rounds.rounds), dollars=None)),
        "usage_known": False,
        "not_taken": rounds.faults,
        "trials": rounds.trials,
        "rounds": [vars(one.ended) for one in rounds.rounds],
        **more,
    }


class _Bench:
    """Takes what the command hands in, and plays its drafts."""

    def __init__(self, situation: Situation, library: Library, source: Source, spec: str) -> None:
        self._situation, self._library, self._source, self._spec = situation, library, source, spec
        self._playing = Playing(situation, library, source)
        candidate = situation.evidence.candidate
        self.executed = next(node.index for node in reversed(situation.nodes) if node.candidate == candidate)

    def play(self, draft: Harness, request: TryRequest) -> Trial:
        """Play a draft beside its parent."""
        whole = Harness.from_files(self._whole(draft.files), where="draft")
        named = request.problems or chosen(self._playing, self._situation.problems, request.rollouts)
        return self._playing.play(whole, request.parent, list(dict.fromkeys(named)), request.rollouts)

    def take(self, handed: Handed) -> Decision:
        """Make the decision of what was handed in.

        Raises:
            SubmissionError: all that is wrong with it.
        """
        apart = [name for name in APART if name in handed.decision]
        if apart:
            raise SubmissionError(f"- decision.json names {', '.join(apart)}: edit the files of {HARNESS}/ instead")
        try:
            given = Submission.model_validate(handed.decision)
            edits = self._edits(given, self._whole(handed.files))
        except ValidationError as error:
            raise SubmissionError(f"- decision.json: {describe_invalid(error)}") from error
        except (HarnessError, ReadingError) as error:
            raise SubmissionError(f"- {error}") from error
        submission = given.model_copy(update={"edits": edits})
        return take(submission, self._situation, self._library, self._source, self._spec)

    def _edits(self, given: Submission, files: Mapping[str, bytes]) -> Sequence[EditArgument]:
        """The change from the parent to what lies in harness/."""
        if given.lever in ("harness", "both"):
            found = edits_between(self._library.candidate(given.parent).files, files)
            return [EditArgument(file=edit.file, text=edit.text, blocks=[], delete=edit.delete) for edit in found]
        if given.lever == "weights" and files != self._situation.harness.files:
            what = f"{HARNESS}/ was changed, and lever weights changes no harness: use lever both, or put it back"
            raise HarnessError(what, where=HARNESS)
        return []

    def _whole(self, files: Mapping[str, bytes]) -> dict[str, bytes]:
        """With those files of the executed harness that are not taken from a directory."""
        kept = {name: data for name, data in self._situation.harness.files.items() if is_passed_over(name)}
        return {**kept, **files}


def _name(situation: Situation, spec: str) -> str:
    """The folder of one decision: another for every question that is put to the command."""
    asked = [
        spec,
        asdict(situation.evidence.candidate),
        list(situation.refused),
        [[sibling.lever, sibling.hypothesis] for sibling in situation.siblings],
    ]
    return f"{situation.generation}-{len(situation.siblings)}-{digest_json(asked)[:_DIGITS]}"
