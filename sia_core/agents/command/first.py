"""The Meta-Agent that is a command of yours, which writes the first harness into an empty directory."""

from typing import Any

from sia_core.agents.command.agent import CommandBase, command_record
from sia_core.agents.command.contents import first_contents
from sia_core.agents.command.desk import Desk, Handed
from sia_core.agents.command.log import Log
from sia_core.agents.command.mail import TryRequest
from sia_core.agents.command.rounds import Rounds
from sia_core.agents.command.spec import parse_command
from sia_core.agents.conversation import SubmissionError
from sia_core.agents.library import ReadingError
from sia_core.agents.meta import Brief, FirstBench
from sia_core.agents.trial import Trial
from sia_core.domain.errors import HarnessError
from sia_core.domain.harness import Harness

_FOLDER = "first"
_PROBLEMS = 8


class CommandWriter(CommandBase):
    """Writes first harnesses."""

    def write(self, brief: Brief, bench: FirstBench) -> Harness:
        """Start the command until its harness passes validation.

        Raises:
            NoDecisionError: the command wrote none.
        """
        folder = self.means.folder / (f"{_FOLDER}-{brief.attempt}" if brief.attempt else _FOLDER)
        desk = Desk(folder, self.means.jail)
        desk.lay(first_contents(brief, bench.left), self.means.files)
        log = Log(folder / "log.jsonl")
        ids = [problem.id for problem in brief.problems]

        def play(draft: Harness, request: TryRequest) -> Trial:
            if request.parent is not None:
                raise ReadingError("there is no lineage yet: leave --parent out")
            unknown = sorted(set(request.problems) - set(ids))
            if unknown:
                raise ReadingError(f"no training problems {', '.join(unknown)}; PROBLEMS.md names them")
            few = max(1, min(_PROBLEMS, bench.left.rollouts // (2 * request.rollouts)))
            return bench.play(draft, list(dict.fromkeys(request.problems or ids[:few])), request.rollouts)

        rounds = Rounds(
            parse_command(self.spec), self.means, desk, log, play=play, take=lambda handed: _take(handed, bench)
        )
        with self.trace.span("AGENT", "first harness", {"agent": self.spec}) as span:
            try:
                harness = rounds.run()
            finally:
                desk.put_away_home()
                self.keep(0, brief.attempt, command_record(rounds))
            span.end({"harness": harness.digest})
        desk.clear()
        return harness


def _take(handed: Handed, bench: FirstBench) -> Harness:
    wrong: dict[str, Any] = {name: value for name, value in handed.decision.items() if name != "reasoning"}
    if wrong or not isinstance(handed.decision.get("reasoning"), str):
        raise SubmissionError("- decision.json: give `reasoning`, a text, and nothing else")
    try:
        harness = Harness.from_files(handed.files, where="harness")
    except HarnessError as error:
        raise SubmissionError(f"- {error}") from error
    faults = bench.faults(harness)
    if faults:
        raise SubmissionError("\n".join(f"- {fault}" for fault in faults))
    return harness
