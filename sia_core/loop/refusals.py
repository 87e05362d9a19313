"""Stop a run whose policy answers none of its first requests, instead of scoring 0 for all of them.

A server can answer a first short request and still refuse every request of a harness: its window is too small, or it
takes no tools. Rollouts of an execute phase without any reply are held back until one has a reply. If the first ones
have none, and the server refused requests, the run stops, and no rollout is kept: a resumed run plays them again.
"""

from contextlib import suppress

from sia_core.domain.errors import PolicyError
from sia_core.domain.rollout import Rollout
from sia_core.engine.actors import Learnt
from sia_core.loop.session import Session
from sia_core.policy.protocol import EndpointError

MOST: int = 8
"""Rollouts that are held back at most."""


class Held:
    """The rollouts of one execute phase that are held back."""

    def __init__(self, session: Session, label: str) -> None:
        self._session, self._label = session, label
        self._rollouts: list[Rollout] = []
        self._open = False
        self._before = self._learnt()

    def take(self, rollout: Rollout) -> list[Rollout]:
        """Take a finished rollout; return the rollouts to keep. Raises as `release` does."""
        self._rollouts.append(rollout)
        if self._open or rollout.turns:
            self._open = True
        elif len(self._rollouts) < MOST:
            return []
        return self.release()

    def release(self) -> list[Rollout]:
        """Return all rollouts that are held back.

        Raises:
            PolicyError: the server refused every request.
        """
        held, self._rollouts = self._rollouts, []
        if held and not self._open:
            self._check(held)
            self._open = True
        return held

    def _check(self, held: list[Rollout]) -> None:
        now, spec = self._learnt(), self._session.config.policy
        answered, refused = now.answered - self._before.answered, now.refused - self._before.refused
        if refused and not answered:
            what = f"{self._label}: the server refused all {refused} requests of {len(held)} rollouts: {now.refusal}"
            hint = "change what it refuses (its limits, [sampling] in task.toml, the harness), or name another policy"
            raise PolicyError(what, where=spec, hint=hint)

    def _learnt(self) -> Learnt:
        ask = getattr(self._session.engine.policy, "learnt", None)
        return Learnt() if ask is None else ask()


def note_dialect(session: Session) -> None:
    """Record and say what the policy's process has learnt of its server."""
    if session.connections is not None and session.connections.dialect("policy") is not None:
        with suppress(EndpointError):  # Said only, so the next phase may say it.
            session.connections.note("policy", session.engine.policy.learnt().dialect)
