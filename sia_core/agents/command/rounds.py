"""Rounds of a command, which is started again with the faults of its decision until a decision is accepted.

ATTEMPTS rounds and a wall clock over all of them are the limits. Each event is logged before it counts, so that a
resumed run repeats neither a trial nor a round that has ended.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from sia_core.agents.command.desk import DECISION, HARNESS, Desk, Handed
from sia_core.agents.command.log import Log
from sia_core.agents.command.mail import Mailbox, Play, TryRequest
from sia_core.agents.command.spec import PROMPT, Commanding
from sia_core.agents.conversation import ATTEMPTS, SubmissionError
from sia_core.agents.library import ReadingError
from sia_core.agents.protocol import NoDecisionError
from sia_core.agents.quote import one_line
from sia_core.agents.trial import Trial
from sia_core.domain.errors import HarnessError
from sia_core.domain.harness import Harness
from sia_core.domain.jail import GIVEN, WORK, Ended, Errand
from sia_core.domain.json_data import Blob, read, write
from sia_core.host.untrusted import UntrustedError

T = TypeVar("T")

_ASK = (
    "You are in a directory that was prepared for you. Read README.md and do what it says: study the evidence, improve "
    "the files in harness/, measure drafts with ./try_harness, then write decision.json and exit. Nobody can answer "
    "questions."
)
_AGAIN = " What you handed in before was not taken: read FAULTS.md first, and repair it."
_TOLD, _SAID = 4000, 1000
"""Characters of a command's output in FAULTS.md, and of the last fault in the record."""


@dataclass(frozen=True)
class Round:
    """One start of the command, and its result."""

    ended: Ended
    handed: Handed | None
    fault: str
    """Reason why the round has no result; empty if it has one."""


@dataclass(frozen=True)
class Tried:
    """One draft that the command had played."""

    files: Mapping[str, Blob]
    request: TryRequest


@dataclass
class Rounds(Generic[T]):
    """All rounds of one decision."""

    command: tuple[str, ...]
    means: Commanding
    desk: Desk
    log: Log
    play: Play = field(kw_only=True)
    take: Callable[[Handed], T] = field(kw_only=True)
    """Makes a decision of a handed-in file; raises SubmissionError."""
    rounds: list[Round] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    """Reason why each round was refused."""
    trials: int = 0

    def run(self) -> T:
        """Start rounds until a decision is accepted.

        Raises:
            NoDecisionError: rounds or time are used up.
            SandboxError: the jail cannot start.
        """
        for event in list(self.log.events):
            if "trial" in event:
                self._repeat(read(Tried, event["trial"]))
                continue
            self.rounds.append(read(Round, event["round"]))
            if (taken := self._judge(self.rounds[-1])) is not None:
                return taken
        while len(self.rounds) < ATTEMPTS and self._left > 0:
            self.rounds.append(self._start())
            if (taken := self._judge(self.rounds[-1])) is not None:
                return taken
        used = f"{len(self.rounds)} rounds of the command" if self._left > 0 else f"{self.means.minutes:g} minutes"
        last = one_line((self.faults or ["nothing was started"])[-1], _SAID)
        raise NoDecisionError(f"no decision in {used}; the last fault: {last}")

    @property
    def _left(self) -> float:
        return 60 * self.means.minutes - sum(one.ended.seconds for one in self.rounds)

    def _start(self) -> Round:
        faults = [f"# Round {number}\n{text}" for number, text in enumerate(self.faults, 1)]
        self.desk.begin_round("\n\n".join(reversed(faults)) + "\n" if faults else "")
        mailbox = Mailbox(self.desk, self._try, self.trials)
        try:
            ended = self.means.jail.run(self._errand(), mailbox.serve)
        finally:
            mailbox.close()
            self.trials = mailbox.count
        ended = replace(ended, stdout=self.means.hide(ended.stdout), stderr=self.means.hide(ended.stderr))
        made = self._collect(ended)
        self.log.append({"round": write(made)})
        return made

    def _errand(self) -> Errand:
        ask = _ASK + (_AGAIN if self.faults else "")
        words = tuple(word.replace(PROMPT, ask) for word in self.command)
        told = words != self.command
        environment = {
            **self.means.environment,
            "SIA_ROUND": str(len(self.rounds) + 1),
            "SIA_WORK": WORK,
            "SIA_REPLIES": f"{GIVEN}/replies",
        }
        desk = self.desk
        stdin = b"" if told else f"{ask}\n".encode()
        return Errand(words, desk.work, desk.home, desk.given, stdin, environment, self._left)

    def _collect(self, ended: Ended) -> Round:
        try:
            if ended.killed_for is not None:
                raise UntrustedError(f"the command was ended by its limit of {ended.killed_for}")
            if ended.code != 0:
                raise UntrustedError(f"the command ended with status {ended.code}")
            handed = self.desk.handed()
            self._refuse_secrets(handed)
        except UntrustedError as error:
            output = "\n".join(part for part in (ended.stdout.rstrip(), ended.stderr.rstrip()) if part)
            return Round(ended, None, f"{error}. The end of its output:\n{output[-_TOLD:] or '(nothing)'}")
        return Round(ended, handed, "")

    def _refuse_secrets(self, handed: Handed) -> None:
        texts = {f"{HARNESS}/{name}": data.decode(errors="replace") for name, data in handed.files.items()}
        for name, text in {DECISION: json.dumps(handed.decision, ensure_ascii=False), **texts}.items():
            if self.means.hide(text) != text:
                raise UntrustedError(f"{name} holds a secret of the environment")

    def _judge(self, made: Round) -> T | None:
        """Return the decision of a round, or None with the reason added to `faults`."""
        if made.handed is None:
            self.faults.append(made.fault)
            return None
        try:
            return self.take(made.handed)
        except SubmissionError as error:
            self.faults.append(str(error))
            return None

    def _try(self, draft: Harness, request: TryRequest) -> Trial:
        self.log.append({"trial": write(Tried(draft.files, request))})
        return self.play(draft, request)

    def _repeat(self, trial: Tried) -> None:
        """Play a logged trial again, to restore drafts, allowance and costs."""
        self.trials += 1
        try:
            self.play(Harness(trial.files), trial.request)
        except (ReadingError, HarnessError):
            return
