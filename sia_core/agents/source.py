"""Protocols for an agent's access to a run: training split, harnesses, lineage, drafts.

An agent never sees problems of gate or test.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from sia_core.agents.trial import Left, Trial
from sia_core.domain.harness import Harness
from sia_core.domain.lineage import Decision, Draft, Node
from sia_core.domain.rollout import Rollout


class Materials(Protocol):
    """The training side of a task, as a harness sees it."""

    def problem(self, problem: str) -> Mapping[str, Any] | None:
        """Public part of a training problem; None where there is none of that id."""

    def problem_ids(self) -> Sequence[str]:
        """Ids of all training problems."""

    def texts(self) -> Mapping[str, int]:
        """Names and bytes of files that can be read: `references/NAME` and, of `ctx.shared`, `shared/NAME`."""

    def text(self, name: str) -> bytes:
        """Content of a file that `texts` names."""


class Source(Materials, Protocol):
    """The record of one run, read-only, as far as agents may see it, and a place to play drafts."""

    def nodes(self) -> Sequence[Node]:
        """The lineage, seed first."""

    def generations(self) -> Sequence[int]:
        """Generations whose training rollouts are there, in order."""

    def rollouts(self, generation: int) -> Sequence[Rollout]:
        """Training rollouts of a generation's executed candidate."""

    def harness(self, digest: str) -> Harness:
        """A harness of the lineage, or a draft."""

    def drafts(self) -> Sequence[Draft]:
        """Drafts of all generations, oldest first, those of the present decision last."""

    def draft_rollouts(self, digest: str) -> Sequence[Rollout]:
        """Training rollouts that a rewritten harness played in trials and on the rungs; none of gate or test."""

    def update(self, node: int) -> Mapping[str, Any] | None:
        """Spec, curve and end of the weight update that made a node, or failed to; None where there was none."""

    def history(self) -> Sequence[Mapping[str, Any]]:
        """Generations of other runs of this task, as they were when this run began."""

    def objections(self, decision: Decision) -> Sequence[str]:
        """List all preconditions that the decision does not meet; free of cost."""

    def validate(self, decision: Decision) -> Sequence[str]:
        """Put the decision's rewrite to the rungs before the minibatch; list the faults of the one that rejects it."""

    def play(self, draft: Harness, parent: int, problems: Sequence[str], rollouts: int) -> Trial:
        """Play a draft with the parent's adapter on training problems, within the allowance.

        Args:
            problems: ids; empty for executed ones, as many as the allowance holds.
            rollouts: number for each problem.
        """

    def left(self) -> Left:
        """The rest of the allowance for trials."""
