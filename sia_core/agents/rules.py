"""`rules`: a Feedback-Agent without a language model, the offline default and the control.

It branches from the last promoted node and pulls the lever with the greater predicted gain
per rollout of cost:

- weights: a share of the headroom between best-of-k and the mean, 0 where no group is mixed
  or no ids were recorded;
- harness: what failed rollouts would score if they did not fail, plus a stated prior on what
  one richer setting adds to the ceiling.

Both predictions are scaled by how observed compared with predicted gain in past pulls.
Two limits keep it from digging in: a knob move or an update that was not promoted is not
tried again on the same parent, and a lever pulled twice in a row makes way for the other.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from sia_core.agents.protocol import Situation
from sia_core.agents.source import Source
from sia_core.config import Lever
from sia_core.generation import Decision, Evidence, Node, champion
from sia_core.harness import Knob, KnobValue

WEIGHTS_PRIOR = 0.5
"""Share of the headroom that an update is expected to reach before any was seen."""
HARNESS_PRIOR = 0.25
"""Share of the ceiling that one richer setting is expected to add before any was seen."""
MAX_STREAK = 2
STEPS = 4
"""A numeric knob is moved by this fraction of its range."""


@dataclass(frozen=True)
class _Prospect:
    lever: Lever | Literal["stop"]
    gain: float
    per_rollout: float
    reason: str
    knobs: dict[str, KnobValue]


class RulesAgent:
    """The agent behind spec `rules`."""

    spec = "rules"

    def decide(self, situation: Situation, source: Source) -> Decision:  # noqa: ARG002  (reads no trajectories)
        """Pick branch and lever; `stop` when nothing untried is left."""
        parent = champion(list(situation.nodes))
        prospects = [found for found in self._prospects(situation, parent) if found is not None]
        rested = [found for found in prospects if found.lever != _tired(situation.nodes)]
        choice = max(rested or prospects, key=lambda found: found.per_rollout, default=None)
        if choice is None:
            choice = _Prospect("stop", 0.0, 0.0, "no untried knob move, and no update is possible", {})
        return Decision(
            lever=choice.lever,
            parent=parent.index,
            reason=choice.reason,
            agent=self.spec,
            predicted_gain=choice.gain,
            knobs=choice.knobs,
            cites=situation.evidence.examples,
            refused=situation.refused,
        )

    def _prospects(self, situation: Situation, parent: Node) -> Iterator[_Prospect | None]:
        for lever in situation.levers:
            if lever in situation.refused_levers:
                continue
            yield self._weights(situation, parent) if lever == "weights" else self._harness(situation, parent)

    def _weights(self, situation: Situation, parent: Node) -> _Prospect | None:
        evidence = situation.evidence
        tried = any(node.lever == "weights" and node.parent == parent.index for node in situation.nodes)
        tried = tried or any(sibling.lever == "weights" for sibling in situation.siblings)
        if tried or not evidence.trainable or evidence.mixed == 0:
            return None
        headroom = evidence.best_of - evidence.score.mean
        gain = _calibration(situation.nodes, "weights") * WEIGHTS_PRIOR * headroom
        reason = (
            f"{evidence.mixed:.0%} of groups are mixed and best-of-{evidence.group_size} is {evidence.best_of:.4f} "
            f"against a mean of {evidence.score.mean:.4f}: the policy can reach more than it usually does"
        )
        return _Prospect("weights", gain, gain / situation.costs["weights"], reason, {})

    def _harness(self, situation: Situation, parent: Node) -> _Prospect | None:
        move = next(_untried_moves(situation, parent), None)
        if move is None:
            return None
        evidence = situation.evidence
        failed = _failed(evidence)
        recoverable = failed * evidence.score.mean / max(1 - failed, 1e-9) if failed < 1 else 0.0
        gain = _calibration(situation.nodes, "harness") * (recoverable + HARNESS_PRIOR * evidence.best_of)
        name, value = move
        old = situation.harness.knobs[name]
        reason = (
            f"{failed:.0%} of rollouts fail or are refused and best-of-{evidence.group_size} is "
            f"{evidence.best_of:.4f}: knob {name} moves from {old!r} to {value!r}"
        )
        return _Prospect("harness", gain, gain / situation.costs["harness"], reason, {name: value})


def _failed(evidence: Evidence) -> float:
    return sum(evidence.failures.values())


def _tired(nodes: Sequence[Node]) -> str | None:
    """The lever pulled MAX_STREAK times in a row, if any."""
    last = [node.lever for node in nodes][-MAX_STREAK:]
    return last[0] if len(last) == MAX_STREAK and len(set(last)) == 1 else None


def _calibration(nodes: Sequence[Node], lever: Lever) -> float:
    """Observed over predicted gain of past pulls, shrunk as if 1 had been seen once."""
    ratios = [1.0]
    ratios += [
        min(max(node.gate.gain.mean / node.decision.predicted_gain, 0.0), 2.0)
        for node in nodes
        if node.lever == lever and node.gate and node.decision and node.decision.predicted_gain > 0
    ]
    return sum(ratios) / len(ratios)


def _untried_moves(situation: Situation, parent: Node) -> Iterator[tuple[str, KnobValue]]:
    """Moves of one knob by one step towards its rich end, in the order harness.toml declares them."""
    earlier = [node.decision for node in situation.nodes if node.parent == parent.index and node.decision]
    tried = {move for decision in (*earlier, *situation.siblings) for move in decision.knobs.items()}
    for name, knob in situation.harness.config.knobs.items():
        value = _richer(knob)
        if value is not None and (name, value) not in tried:
            yield name, value


def _richer(knob: Knob) -> KnobValue | None:
    if knob.options is not None:
        after = knob.options.index(knob.value) + 1
        return knob.options[after] if after < len(knob.options) else None
    assert knob.range is not None
    low, high = knob.range
    whole = isinstance(knob.value, int)
    step = max(1, round((high - low) / STEPS)) if whole else (high - low) / STEPS
    value = min(float(knob.value) + step, high)
    if value <= float(knob.value):
        return None
    return int(value) if whole else value
