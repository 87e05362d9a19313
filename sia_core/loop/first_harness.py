"""Let the Meta-Agent write the first harness, validate it, and make it the seed of the lineage."""

from collections.abc import Sequence
from importlib.resources import files

from sia_core.agents.meta import Brief
from sia_core.agents.protocol import NoDecisionError
from sia_core.agents.quote import one_line
from sia_core.agents.reference import reference
from sia_core.agents.trial import Left, Trial, messages
from sia_core.domain.candidate import Candidate
from sia_core.domain.errors import HarnessError
from sia_core.domain.harness import Harness
from sia_core.domain.lineage import DRAFT_ID
from sia_core.domain.rollout import Rollout
from sia_core.loop.create_run import plant_seed
from sia_core.loop.ladder import climb_first
from sia_core.loop.rollouts import pick_problems, plan_units, roll_out
from sia_core.loop.run_view import TaskMaterials
from sia_core.loop.session import Session
from sia_core.loop.workbench import TrialAllowance
from sia_core.record.phases import StartDone
from sia_core.report.decided import short_spec

SMOKE_PROBLEMS = 2
_ATTEMPTS = "agent/attempts.json"
"""Number of attempts that ended without a harness. A resumed run makes a new one, as the log of replies would lead the
same conversation to the same end."""
_NAMES = 200
"""Characters shown of the files' names."""


class SeedBench:
    """Bench on which the Meta-Agent's drafts are validated and tried."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._allowance = TrialAllowance(session, set())

    def faults(self, harness: Harness) -> Sequence[str]:
        """List the faults of a first harness, from the rungs that need no parent and a few rollouts."""
        report = climb_first(self._session, harness)
        if report.failure:
            return report.faults
        smoke = self._roll(harness, pick_problems(self._session, "train", 0, SMOKE_PROBLEMS), 1)
        if all(rollout.failure is not None for rollout in smoke):
            return [f"smoke: every rollout failed: {'; '.join(messages(smoke))}"]
        return []

    def play(self, harness: Harness, problems: Sequence[str], rollouts: int) -> Trial:
        """Roll a draft out on training problems."""
        faults = tuple(climb_first(self._session, harness).faults) or self._allowance.objections(
            len(problems) * rollouts
        )
        played = [] if faults else self._roll(harness, problems, rollouts)
        self._allowance.take(played)
        return Trial(harness.digest, faults, tuple(played), (), self.left)

    @property
    def left(self) -> Left:
        """The rest of the allowance."""
        return self._allowance.left

    def _roll(self, harness: Harness, problems: Sequence[str], rollouts: int) -> list[Rollout]:
        self._session.run.put_harness(harness)
        candidate = Candidate(harness.digest)
        units = plan_units(self._session, candidate, "train", problems, rollouts, "first")
        return roll_out(self._session, candidate, units, f"trial of draft {harness.digest[:DRAFT_ID]}")


def write_first(session: Session) -> None:
    """Let the Meta-Agent write the seed harness, unless there is one.

    Raises:
        HarnessError: no harness passed validation.
    """
    if session.run.phase(StartDone) is not None:
        return
    assert session.agents.meta is not None
    session.reporter.say(f"the first harness is written by {session.agents.meta.spec}")
    sdk = (files("sia_core.engine") / "sdk" / "sia_sdk.py").read_text()
    attempt = int(session.run.get_json(_ATTEMPTS) or 0)
    brief = Brief(
        task=session.task.description,
        metric=session.task.config.metric,
        problems=session.task.problems("train"),
        reference=reference(sdk, session.task.config, None),
        materials=TaskMaterials(session.task),
        seed=session.config.seed,
        attempt=attempt,
    )
    try:
        harness = session.agents.meta.write(brief, SeedBench(session))
    except NoDecisionError as error:
        session.run.put_json(_ATTEMPTS, attempt + 1)
        raise HarnessError(
            f"{session.agents.meta.spec} wrote no usable harness: {error}",
            where=session.run.name,
            hint=f"sia resume {session.run.name} asks once more from the beginning. Read agent/conversation.json of "
            "the run in MLflow. Use another agent, or write a harness yourself",
        ) from error
    plant_seed(session.run, harness)
    names = one_line(", ".join(sorted(harness.files)), _NAMES)
    session.reporter.say(f"the first harness was written by {short_spec(session.agents.meta.spec)}: {names}")
