"""Reuse of states: rollouts that start from earlier answers to their problem, chosen by PUCT.

Test-time training (TTT-Discover's setting): rollouts continue from earlier answers instead of starting each problem
from the beginning, and the tree of answers is searched where it promises most. For a state i of N:

    score_i = Q_i + c * scale * P_i * sqrt(1 + T) / (1 + n_i)

| symbol | meaning |
|---|---|
| Q_i | best score reached directly from state i (before any, the state's own score) |
| P_i | (N - rank_i) / sum, a prior by rank of own score |
| n_i | number of groups started from state i or its descendants |
| T | number of all groups |
| scale | spread of scores |
| c | 1 |

No two states of one choice are ancestor and descendant. From each state, the two best answers are kept, and the first
of equal answers. The state without an answer is always kept.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from sia_core.domain.hashing import canonical_json, digest_json
from sia_core.domain.rollout import Rollout

EXPLORATION = 1.0
KEPT = 2
"""Number of answers kept from one state."""


@dataclass
class _State:
    key: str | None
    """Key of the rollout that gave the answer; None for the beginning."""
    text: str | None
    parent: "_State | None"
    score: float
    groups: int = 0
    best: float | None = None
    """Best score reached directly from this state; None before any."""
    children: list["_State"] = field(default_factory=list)

    def line(self) -> Iterator["_State"]:
        """Yield the state and its ancestors."""
        yield self
        if self.parent is not None:
            yield from self.parent.line()


def state_of(rollout: Rollout) -> str | None:
    """Answer and score, as canonical JSON that another rollout can begin from; None if there is no valid answer."""
    if rollout.answer is None or rollout.score is None or rollout.verdict is None or not rollout.verdict.valid:
        return None
    return canonical_json({"answer": rollout.answer, "score": rollout.score, "unit": rollout.unit.key}).decode()


def choose_states(rollouts: Sequence[Rollout], count: int, *, lowest: float = 0.0) -> list[str | None]:
    """States to begin `count` groups of rollouts from, the most promising first.

    Args:
        rollouts: earlier rollouts of one problem, in any order.
        count: number of groups; fewer states are returned if too few are independent.
        lowest: lowest score of the task, and score of the state without an answer.

    Returns:
        Texts of `state_of`; None starts from the beginning.
    """
    states = _tree(rollouts, lowest)
    chosen: list[_State] = []
    for state in sorted(states, key=_Puct(states), reverse=True):
        if len(chosen) == count:
            break
        if not any(state in other.line() or other in state.line() for other in chosen):
            chosen.append(state)
    return [state.text for state in chosen]


def _tree(rollouts: Sequence[Rollout], lowest: float) -> list[_State]:
    start = _State(None, None, None, lowest)
    known: dict[str | None, _State] = {None: start}
    waiting = sorted(rollouts, key=lambda rollout: rollout.unit.key)
    seen: set[str] = set()
    groups: set[tuple[str | None, str | None, str]] = set()
    while waiting:
        # The start of a rollout is read before the rollout; an unknown start counts as the beginning.
        keys = {rollout.unit.key for rollout in waiting}
        ready = [rollout for rollout in waiting if _start(rollout) not in keys]
        waiting = [rollout for rollout in waiting if _start(rollout) in keys]
        for rollout in ready:
            parent = known.get(_start(rollout), start)
            group = (parent.key, rollout.unit.adapter, rollout.unit.harness)
            if group not in groups:
                groups.add(group)
                for one in parent.line():
                    one.groups += 1
            if rollout.score is not None:
                parent.best = max(rollout.score, lowest if parent.best is None else parent.best)
            text, digest = state_of(rollout), digest_json(rollout.answer)
            if text is not None and digest not in seen:
                seen.add(digest)
                state = _State(rollout.unit.key, text, parent, rollout.score or 0.0)
                known[state.key] = state
                parent.children.append(state)
    return [start, *_kept(start)]


def _kept(state: _State) -> Iterator[_State]:
    for child in sorted(state.children, key=lambda child: (-child.score, child.key or ""))[:KEPT]:
        yield child
        yield from _kept(child)


class _Puct:
    """Sort key of the states."""

    def __init__(self, states: Sequence[_State]) -> None:
        ranked = sorted(states, key=lambda state: (-state.score, state.key or ""))
        total = sum(range(1, len(states) + 1))
        self._prior: Mapping[str | None, float] = {
            state.key: (len(states) - rank) / total for rank, state in enumerate(ranked)
        }
        scores = [state.score for state in states if state.key is not None]
        self._scale = max(scores) - min(scores) if scores else 0.0
        self._groups = states[0].groups  # Every group descends from the beginning.

    def __call__(self, state: _State) -> tuple[float, str]:
        value = state.score if state.best is None else state.best
        wide = EXPLORATION * self._scale * self._prior[state.key] * math.sqrt(1 + self._groups) / (1 + state.groups)
        return value + wide, state.key or ""


def _start(rollout: Rollout) -> str | None:
    """Key of the rollout that a rollout started from."""
    return None if rollout.unit.state is None else str(json.loads(rollout.unit.state)["unit"])
