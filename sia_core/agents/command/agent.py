"""The Feedback-Agent that is a command of yours."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pydantic import ValidationError

from sia_core.agents.command.contents import APART, decision_contents
from sia_core.agents.command.desk import HARNESS, Desk, Handed, is_passed_over
from sia_core.agents.command.log import Log
from sia_core.agents.command.mail import TryRequest
from sia_core.agents.command.rounds import Rounds
from sia_core.agents.command.spec import Commanding, parse_command
from sia_core.agents.conversation import SubmissionError
from sia_core.agents.library import Library, ReadingError
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
from sia_core.domain.invalid import in_words
from sia_core.domain.lineage import Decision
from sia_core.domain.patch import edits_between
from sia_core.domain.usage import ModelUsage

_DIGITS = 12


@dataclass
class CommandBase:
    """The means of an agent that is a command."""

    spec: str
    means: Commanding
    keep: Keep = field(kw_only=True)
    trace: Trace = field(default=NO_TRACE, kw_only=True)


class CommandAgent(CommandBase):
    """The agent behind specs like `command:mytool {prompt}`."""

    def decide(self, situation: Situation, source: Source) -> Decision:
        """Start the command until its decision is accepted."""
        library = Library(source, situation.generation)
        bench = _Bench(situation, library, source, self.spec)
        folder = self.means.folder / _name(situation, self.spec)
        desk = Desk(folder, self.means.jail)
        contents = decision_contents(situation, library, source)
        desk.lay(contents, self.means.files)
        log = Log(folder / "log.jsonl")
        rounds = Rounds(parse_command(self.spec), self.means, desk, log, play=bench.play, take=bench.take)
        with self.trace.span("AGENT", f"decide {situation.generation}", {"agent": self.spec}) as span:
            try:
                decision = rounds.run()
            except NoDecisionError:
                desk.clear()
                raise
            finally:
                desk.put_away_home()
                record = command_record(rounds, coverage=library.coverage.record())
                self.keep(situation.generation, len(situation.siblings), record)
            span.end(asdict(decision))
        desk.clear()
        return decision


def command_record(rounds: Rounds[Any], **more: Any) -> dict[str, Any]:
    """Rounds of a command as JSON data: their outputs and ends. The usage of the command's own model is unknown."""
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
    """Checks the command's decision, and plays its drafts."""

    def __init__(self, situation: Situation, library: Library, source: Source, spec: str) -> None:
        self._situation, self._library, self._source, self._spec = situation, library, source, spec
        self._playing = Playing(situation, library, source)

    def play(self, draft: Harness, request: TryRequest) -> Trial:
        """Play a draft beside its parent."""
        whole = Harness.from_files(self._whole(draft.files), where="draft")
        named = request.problems or chosen(self._playing, self._situation.problems, request.rollouts)
        return self._playing.play(whole, request.parent, list(dict.fromkeys(named)), request.rollouts)

    def take(self, handed: Handed) -> Decision:
        """Convert decision.json and the harness to a decision.

        Raises:
            SubmissionError: all their faults.
        """
        apart = [name for name in APART if name in handed.decision]
        if apart:
            raise SubmissionError(f"- decision.json names {', '.join(apart)}: edit the files of {HARNESS}/ instead")
        try:
            given = Submission.model_validate(handed.decision)
            edits = self._edits(given, self._whole(handed.files))
        except ValidationError as error:
            raise SubmissionError(f"- decision.json: {in_words(error, Submission)}") from error
        except (HarnessError, ReadingError) as error:
            raise SubmissionError(f"- {error}") from error
        submission = given.model_copy(update={"edits": edits})
        return take(submission, self._situation, self._library, self._source, self._spec)

    def _edits(self, given: Submission, files: Mapping[str, bytes]) -> Sequence[EditArgument]:
        """Return the changes from the parent's files to those in harness/."""
        if given.lever in ("harness", "both"):
            found = edits_between(self._library.candidate(given.parent).files, files)
            return [EditArgument(file=edit.file, text=edit.text, blocks=[], delete=edit.delete) for edit in found]
        if given.lever == "weights" and files != self._situation.harness.files:
            what = f"{HARNESS}/ was changed, and lever weights changes no harness: use lever both, or put it back"
            raise HarnessError(what, where=HARNESS)
        return []

    def _whole(self, files: Mapping[str, bytes]) -> dict[str, bytes]:
        """Add the files of the executed harness that are not read from a directory."""
        kept = {name: data for name, data in self._situation.harness.files.items() if is_passed_over(name)}
        return {**kept, **files}


def _name(situation: Situation, spec: str) -> str:
    """Name the folder of one decision; each question to the command has its own."""
    asked = [
        spec,
        asdict(situation.evidence.candidate),
        list(situation.refused),
        [[sibling.lever, sibling.hypothesis] for sibling in situation.siblings],
    ]
    return f"{situation.generation}-{len(situation.siblings)}-{digest_json(asked)[:_DIGITS]}"
