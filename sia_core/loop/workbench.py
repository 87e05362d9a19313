"""Let an agent try drafts before it decides: trials within an allowance, and the first rungs.

Everything counts in the run's budget. All drafts stay in the record by digest, with their rollouts. A resumed
generation repeats its conversation and finds the rollouts in the journal.
"""

from collections.abc import Sequence
from dataclasses import asdict, replace

from sia_core.agents.trial import Left, Trial
from sia_core.domain.candidate import Candidate
from sia_core.domain.harness import Harness
from sia_core.domain.lineage import DRAFT_ID, Cost, Decision, Draft, LadderReport, Node
from sia_core.domain.rollout import Rollout, Unit
from sia_core.loop.harness_lever import rewrite
from sia_core.loop.ladder import READING, VALIDATION, Climb, climb_rungs, twins
from sia_core.loop.rollouts import cost_of, plan_units, roll_out
from sia_core.loop.session import Session
from sia_core.record.generation import GenerationRecord


class Workbench:
    """Drafts of one decision; `record` belongs to the generation or a sibling."""

    def __init__(self, session: Session, record: GenerationRecord) -> None:
        self._session, self._record = session, record
        self._allowance = TrialAllowance(session, set())
        self._reports: dict[str, LadderReport] = {}
        self._rollouts: dict[str, dict[str, Rollout]] = {}
        self.drafts: dict[str, Draft] = {}
        """Drafts by digest, in order of arrival."""

    @property
    def left(self) -> Left:
        """The rest of the allowance."""
        return self._allowance.left

    def rollouts(self, digest: str) -> list[Rollout]:
        """Return the training rollouts of a draft so far."""
        return list(self._rollouts.get(digest, {}).values())

    def validate(self, decision: Decision, parent: Node) -> tuple[str, ...]:
        """Try the decision's rewrite on the rungs of VALIDATION, and return the faults that the rejecting one found."""
        child = rewrite(self._session, decision, parent)
        if child.digest not in self._reports:
            climb = self._climb(decision, parent, child)
            report = self._reports[child.digest] = climb_rungs(climb, VALIDATION)
            if any(rung.rung == "smoke" for rung in report.rungs):
                self._put(child, twins(climb))
            self._keep(_submitted(decision, child, report, self._record.index), report.cost)
        return self._reports[child.digest].faults

    def play(self, draft: Harness, parent: Node, problems: Sequence[str], rollouts: int) -> Trial:
        """Roll out a draft and its parent on problems and seeds of the execute phase."""
        stub = Decision("harness", parent.index, "", self._session.config.agent)
        report = climb_rungs(self._climb(stub, parent, draft), READING)
        compared_units = self._units(parent.candidate, problems, rollouts)
        faults = report.faults or self._allowance.objections(len(problems) * rollouts, compared_units)
        played: list[Rollout] = []
        compared: list[Rollout] = []
        if not faults:
            mine = replace(parent.candidate, harness=draft.digest)
            named = f"trial of draft {draft.digest[:DRAFT_ID]}"
            played = self._roll(mine, problems, rollouts, named)
            compared = self._roll(parent.candidate, problems, rollouts, f"{named}, its parent")
            self._put(draft, played)
        # The parent's rollouts of the execute phase are in `counted` from the first climb on.
        cost = self._allowance.take([*played, *compared])
        tried = Draft(draft.digest, parent.index, "tried", report.failure, generation=self._record.index)
        self._keep(tried, cost)
        return Trial(draft.digest, tuple(faults), tuple(played), tuple(compared), self.left)

    def finish(self) -> Cost:
        """Store all drafts with their rollouts, and return the cost of all trials."""
        if self.drafts:
            drafts = [asdict(draft) for draft in self.drafts.values()]
            self._record.put_json("drafts.json", {"drafts": drafts, "counted": sorted(self._allowance.counted)})
        for digest, found in self._rollouts.items():
            self._record.put_rollouts(f"draft_{digest}", list(found.values()))
        return sum((draft.cost for draft in self.drafts.values()), Cost())

    def _climb(self, decision: Decision, parent: Node, child: Harness) -> Climb:
        return Climb(self._session, self._record, decision, parent, child, self._allowance.counted)

    def _roll(self, candidate: Candidate, problems: Sequence[str], rollouts: int, named: str) -> list[Rollout]:
        return roll_out(self._session, candidate, self._units(candidate, problems, rollouts), named)

    def _units(self, candidate: Candidate, problems: Sequence[str], rollouts: int) -> list[Unit]:
        return plan_units(self._session, candidate, "train", problems, rollouts, f"{self._record.index}/execute")

    def _put(self, draft: Harness, rollouts: Sequence[Rollout]) -> None:
        self._rollouts.setdefault(draft.digest, {}).update((rollout.unit.key, rollout) for rollout in rollouts)

    def _keep(self, draft: Draft, cost: Cost) -> None:
        """Keep a draft; a submission replaces a trial, but not the reverse."""
        before = self.drafts.pop(draft.harness, None)
        if before is not None:
            cost += before.cost
            draft = before if before.origin == "submitted" and draft.origin == "tried" else draft
        self.drafts[draft.harness] = replace(draft, cost=cost)


def _submitted(decision: Decision, child: Harness, report: LadderReport, generation: int) -> Draft:
    return Draft(
        child.digest,
        decision.parent,
        "submitted",
        report.failure,
        decision.hypothesis,
        decision.category,
        decision.predicted_gain,
        generation=generation,
    )


class TrialAllowance:
    """Rollouts and their seconds that an agent may still play. Counts each unit once."""

    def __init__(self, session: Session, counted: set[str]) -> None:
        """Begin with what the run's configuration gives; `counted` holds keys of units that cost nothing more."""
        self._session, self.counted = session, counted
        self.left = Left(session.config.agent_rollouts, session.config.agent_seconds)

    def objections(self, drafts: int, parents: Sequence[Unit] = ()) -> tuple[str, ...]:
        """Say why that many rollouts of a draft, and those of its parent that are new, are too many; empty if not."""
        more = sum(unit.key not in self.counted for unit in parents)
        asked = drafts + more
        if self.left.seconds <= 0:
            return (f"no time is left for trials: submit what you have ({self.left})",)
        if asked > self.left.rollouts:
            beside = f" and {more} of its parent" if more else ""
            return (f"{drafts} rollouts of the draft{beside} were asked for: name fewer problems ({self.left})",)
        lacking = self._session.ledger.lacks(asked)
        return () if lacking is None else (f"the run's budget does not hold this trial: {lacking}",)

    def take(self, rollouts: Sequence[Rollout]) -> Cost:
        """Take what is new among these from the allowance, and return its cost."""
        new = [rollout for rollout in rollouts if rollout.unit.key not in self.counted]
        self.counted.update(rollout.unit.key for rollout in new)
        seconds = sum(rollout.seconds for rollout in new)
        self.left = Left(max(self.left.rollouts - len(new), 0), round(self.left.seconds - seconds, 3))
        return cost_of(new)
