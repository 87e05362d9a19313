"""Track the allowance of a decision for trials of drafts."""

from collections.abc import Sequence

from sia_core.agents.trial import Left
from sia_core.domain.lineage import Cost
from sia_core.domain.rollout import Rollout
from sia_core.loop.rollouts import cost_of
from sia_core.loop.session import Session


class TrialAllowance:
    """Rollouts and seconds that an agent may still use for trials; each unit counts once."""

    def __init__(self, session: Session, counted: set[str]) -> None:
        """Start with the allowance of the configuration; `counted` holds keys of units that cost nothing more."""
        self._session = session
        self.counted = counted
        self.left = Left(session.config.agent_rollouts, session.config.agent_seconds)

    def objections(self, asked: int) -> tuple[str, ...]:
        """Return why that many rollouts are too many; empty if they are not."""
        if self.left.seconds <= 0:
            return (f"no time is left for trials: submit what you have ({self.left})",)
        if asked > self.left.rollouts:
            return (f"{asked} rollouts of the draft were asked for: name fewer problems ({self.left})",)
        lacking = self._session.ledger.lacks(asked)
        return () if lacking is None else (f"the run's budget does not hold this trial: {lacking}",)

    def take(self, rollouts: Sequence[Rollout]) -> Cost:
        """Subtract new rollouts from the allowance, and return their cost."""
        new = [rollout for rollout in rollouts if rollout.unit.key not in self.counted]
        self.counted.update(rollout.unit.key for rollout in new)
        seconds = sum(rollout.seconds for rollout in new)
        self.left = Left(max(self.left.rollouts - len(new), 0), round(self.left.seconds - seconds, 3))
        return cost_of(new)
