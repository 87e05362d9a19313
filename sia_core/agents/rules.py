"""`rules`: a Feedback-Agent without a language model, the offline default and the control for agents with one.

The agent branches from the executed node and pulls the lever with the greatest expected gain per rollout of cost:

- harness: one knob one step richer. Gain: the score that failed rollouts would have without failure, plus a prior on
  the ceiling that a richer setting adds.
- weights: not where groups are constant or no ids were recorded. Gain: a share of the headroom between best-of-k and
  the mean, less the share of failures that training the policy does not fix.
- both: a wider menu that lost at the gate, again with training: wide menus pay only once trained on.

An expected gain is the predicted gain, times the ratio of observed to predicted gain in past pulls of the lever, times
twice the lever memory's chance of a promotion (so that 1/2 changes nothing).

Three rules override the arithmetic. A lever on a plateau, or pulled twice in a row, gives way to another. Failures
that the harness causes are fixed before training. One cheap probe of the harness comes first where training costs
more. A change that was rolled back is not tried again on the same pair.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from sia_core.agents.memory import asks, blocked, chance
from sia_core.agents.protocol import Situation
from sia_core.agents.source import Source
from sia_core.domain.config import Lever
from sia_core.domain.harness import Knob, KnobValue
from sia_core.domain.lineage import Decision, Evidence, Node
from sia_core.domain.rollout import HARNESS_FAILURES

WEIGHTS_PRIOR = 0.5
"""Share of the headroom that an update is expected to gain, before any observation."""
HARNESS_PRIOR = 0.25
"""Share of the ceiling that one richer setting is expected to add, before any observation."""
MAX_STREAK = 2
"""Pulls of one lever in a row, after which another possible lever is pulled: small sure steps of a menu would
defer training for ever."""
STEPS = 4
"""Steps across the range of a numeric knob."""
LEAST_MIXED = 0.1
"""Share of mixed groups below which the weights are not trained."""
BROKEN = 0.3
"""Share of rollouts with failures that the harness causes, from which the harness is fixed first."""
COSTS_MORE = 1.5
"""Ratio of the cost of training to that of a harness probe from which the probe comes first."""

Pull = Literal["harness", "weights", "both"]


@dataclass(frozen=True)
class _Prospect:
    lever: Pull
    category: str
    gain: float
    """Predicted gain."""
    worth: float
    """Expected gain per rollout."""
    cost: int
    reason: str
    knobs: dict[str, KnobValue]


class RulesAgent:
    """The agent behind spec `rules`."""

    spec = "rules"

    def decide(self, situation: Situation, source: Source) -> Decision:  # noqa: ARG002  (reads no trajectories)
        """Pick the lever; `stop` when nothing untried is left."""
        parent = situation.proposed
        prospects = [found for found in _prospects(situation, parent) if not self._blocked(situation, parent, found)]
        choice, why = _choose(situation, parent, prospects)
        if choice is None:
            return self._decision(situation, parent, "stop", why)
        reason = f"{choice.reason}{'; ' + why if why else ''}"
        return self._decision(situation, parent, choice.lever, reason, choice)

    def _blocked(self, situation: Situation, parent: Node, found: _Prospect) -> bool:
        decision = self._decision(situation, parent, found.lever, "", found)
        fallen = any(asks(decision) == asks(earlier) for earlier in situation.fallen)
        return fallen or blocked(situation.nodes, decision) is not None

    def _decision(
        self,
        situation: Situation,
        parent: Node,
        lever: Pull | Literal["stop"],
        reason: str,
        found: _Prospect | None = None,
    ) -> Decision:
        return Decision(
            lever=lever,
            parent=parent.index,
            reason=reason,
            agent=self.spec,
            predicted_gain=found.gain if found else 0.0,
            knobs=found.knobs if found else {},
            category=found.category if found else "",
            cites=situation.evidence.examples,
            refused=situation.refused,
        )


def _choose(situation: Situation, parent: Node, prospects: Sequence[_Prospect]) -> tuple[_Prospect | None, str]:
    """Choose a prospect; return it with the rule that overrode the arithmetic, if any."""
    if not prospects:
        return None, "no untried knob move, and no update is possible"
    best = max(prospects, key=lambda found: found.worth)
    rested = [found for found in prospects if not _levers(found.lever) & set(situation.tired)]
    if rested and best not in rested:
        switched = max(rested, key=lambda found: found.worth)
        return switched, f"lever {best.lever} is on a plateau: time for another"
    recent = [node.lever for node in situation.nodes][-MAX_STREAK:]
    others = [found for found in rested or prospects if found.lever not in recent]
    if len(recent) == MAX_STREAK and len(set(recent)) == 1 and others:
        return max(others, key=lambda found: found.worth), f"lever {recent[0]} was pulled {MAX_STREAK} times in a row"
    probes = [found for found in rested or prospects if found.lever == "harness"]
    if best.lever == "harness" or not probes:
        return best, ""
    probe = max(probes, key=lambda found: found.worth)
    broken = sum(share for kind, share in situation.evidence.failures.items() if kind in HARNESS_FAILURES)
    if broken >= BROKEN:
        return probe, f"{broken:.0%} of rollouts fail because of the harness: it is fixed before training"
    probed = any(node.lever == "harness" and node.parent == parent.index for node in situation.nodes)
    if not probed and best.cost >= COSTS_MORE * probe.cost:
        return probe, f"a cheap probe before training, which takes {best.cost / probe.cost:.1f} times the rollouts"
    return best, ""


def _levers(pull: Pull) -> set[str]:
    return {"harness", "weights"} if pull == "both" else {pull}


def _prospects(situation: Situation, parent: Node) -> Iterator[_Prospect]:
    for lever in ("harness", "weights"):
        if lever in situation.levers and lever not in situation.refused_levers:
            yield from _harness(situation, parent) if lever == "harness" else _weights(situation, parent)
    if set(situation.levers) == {"harness", "weights"} and "both" not in situation.refused_levers:
        yield from _both(situation, parent)


def _weights(situation: Situation, parent: Node) -> Iterator[_Prospect]:
    evidence = situation.evidence
    tried = any(node.lever == "weights" and node.parent == parent.index for node in situation.nodes)
    tried = tried or any(sibling.lever == "weights" for sibling in situation.siblings)
    if tried or not _trainable(evidence):
        return
    gain = _headroom(situation, "weights")
    reason = (
        f"{evidence.mixed:.0%} of groups are mixed and best-of-{evidence.group_size} is {evidence.best_of:.4f} "
        f"against a mean of {evidence.score.mean:.4f}: the policy can reach more than it usually does"
    )
    yield _prospect(situation, "weights", "policy", gain, situation.costs["weights"], reason)


def _harness(situation: Situation, parent: Node) -> Iterator[_Prospect]:
    evidence = situation.evidence
    failed = sum(evidence.failures.values())
    recoverable = failed * evidence.score.mean / max(1 - failed, 1e-9) if failed < 1 else 0.0
    gain = _calibration(situation.nodes, "harness") * (recoverable + HARNESS_PRIOR * evidence.best_of)
    kinds = ", ".join(f"{kind} {share:.0%}" for kind, share in evidence.failures.items())
    for name, value in _untried_moves(situation, parent):
        old = situation.harness.knobs[name]
        reason = (
            f"{failed:.0%} of rollouts fail or are refused{f' ({kinds})' if kinds else ''} and "
            f"best-of-{evidence.group_size} is {evidence.best_of:.4f}: knob {name} moves from {old!r} to {value!r}"
        )
        yield _prospect(situation, "harness", f"knob {name}", gain, situation.costs["harness"], reason, {name: value})


def _both(situation: Situation, parent: Node) -> Iterator[_Prospect]:
    """Propose again, with training, a menu that was widened on this node and lost without."""
    evidence = situation.evidence
    if not _trainable(evidence):
        return
    for node in situation.nodes:
        lost = node.lever == "harness" and node.parent == parent.index and node.gate and not node.promoted
        if not lost or node.decision is None or (node.gate and node.gate.void) or len(node.decision.knobs) != 1:
            continue
        ((name, value),) = node.decision.knobs.items()
        knob = situation.harness.config.knobs.get(name)
        made = any(dict(sibling.knobs) == {name: value} for sibling in situation.siblings)
        if knob is None or knob.options is None or made:
            continue
        reason = f"knob {name} at {value!r} lost as node {node.index} without training; a wider menu may pay with it"
        cost = situation.costs["harness"] + situation.costs["weights"]
        yield _prospect(situation, "both", f"knob {name}", _headroom(situation, "both"), cost, reason, {name: value})


def _prospect(
    situation: Situation,
    lever: Pull,
    category: str,
    gain: float,
    cost: int,
    reason: str,
    knobs: dict[str, KnobValue] | None = None,
) -> _Prospect:
    expected = gain * 2 * chance(situation.nodes, lever, category)
    return _Prospect(lever, category, gain, expected / cost, cost, reason, knobs or {})


def _trainable(evidence: Evidence) -> bool:
    return evidence.trainable and evidence.mixed >= LEAST_MIXED


def _headroom(situation: Situation, lever: Pull) -> float:
    """Gain that training is expected to bring, as a share of best-of-k minus the mean."""
    evidence = situation.evidence
    broken = sum(share for kind, share in evidence.failures.items() if kind in HARNESS_FAILURES)
    headroom = evidence.best_of - evidence.score.mean
    return _calibration(situation.nodes, lever) * WEIGHTS_PRIOR * headroom * (1 - min(broken, 1.0))


def _calibration(nodes: Sequence[Node], lever: Lever | Literal["both"]) -> float:
    """Mean ratio of observed to predicted gain over past pulls and one prior pull of ratio 1."""
    ratios = [1.0]
    ratios += [
        min(max(node.gate.gain.mean / node.decision.predicted_gain, 0.0), 2.0)
        for node in nodes
        if node.lever == lever and node.gate and not node.gate.void and node.decision
        if node.decision.predicted_gain > 0
    ]
    return sum(ratios) / len(ratios)


def _untried_moves(situation: Situation, parent: Node) -> Iterator[tuple[str, KnobValue]]:
    """Untried moves of one knob by one step towards its rich end, in the order of harness.toml."""
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


class AlternateAgent(RulesAgent):
    """The agent behind spec `alternate`: `rules`, held to the lever whose turn it is."""

    spec = "alternate"

    def decide(self, situation: Situation, source: Source) -> Decision:
        """Return the lever of this generation's turn, else another lever that can be pulled, else `stop`."""
        turn = (situation.generation - 1) % len(situation.levers)
        for lever in (*situation.levers[turn:], *situation.levers[:turn]):
            decision = super().decide(replace(situation, levers=(lever,)), source)
            if decision.lever != "stop":
                break
        return decision
