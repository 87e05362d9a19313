"""Format decisions in a line each, and name those that `rules` made in an agent's place.

Texts of agents are cut, and unprintable characters are spelled out (`agents.quote.one_line`).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from sia_core.agents.memory import Calibration, calibrate
from sia_core.agents.quote import one_line
from sia_core.domain.lineage import Decision, Node, stand_ins

_SPEC, _TEXT = 40, 300
_ADDRESS = re.compile(r"@https?://[^#\s]+|#[A-Za-z_]\w*$")
_FOLDER = re.compile(r"^(replay:).*/")


def short_spec(spec: str) -> str:
    """Shorten an agent's spec: without address, name of a key's variable and folder."""
    return one_line(_FOLDER.sub(r"\1", _ADDRESS.sub("", spec)), _SPEC)


def decided_by(node: Node) -> str:
    """Name the agent behind a node, or a dash if no agent decided."""
    return "-" if node.decision is None or node.decision.agent == "none" else short_spec(node.decision.agent)


def decision_line(decision: Decision) -> str:
    """Format agent, lever, hypothesis, prediction and number of cited rollouts."""
    kind = f" ({one_line(decision.category, _SPEC)})" if decision.category else ""
    why = one_line(decision.hypothesis or decision.reason, _TEXT)
    parts = [f"decided by {short_spec(decision.agent)}: {decision.lever}{kind}: {why}"]
    if decision.lever not in ("none", "stop"):
        span = decision.predicted_range
        within = f" [{span[0]:+.4f}, {span[1]:+.4f}]" if span else ""
        parts.append(f"predicted {decision.predicted_gain:+.4f}{within}")
    if decision.cites:
        parts.append(f"cites {len(decision.cites)} rollout{'s' if len(decision.cites) > 1 else ''}")
    return "; ".join(parts)


def stand_in_line(decision: Decision, generation: int) -> str:
    """Say in whose place an agent decided, and why."""
    place = decision.instead_of
    why = decision.refused[0].removeprefix(f"{place}: ") if decision.refused else "no reason was recorded"
    return (
        f"{short_spec(decision.agent)} decided in place of {short_spec(place)} in generation {generation}: "
        f"{one_line(why, _TEXT)}"
    )


def stand_in_lines(nodes: Sequence[Node]) -> list[str]:
    """Describe each decision that was not made by the run's agent in a line."""
    return [stand_in_line(node.decision, node.generation) for node in stand_ins(nodes) if node.decision]


@dataclass(frozen=True)
class AgentCalibration:
    """Calibration of an agent's predictions; `agent` is empty if only one agent decided."""

    agent: str
    calibration: Calibration

    def __str__(self) -> str:
        return f"predictions{f' of {self.agent}' if self.agent else ''}: {self.calibration}"


def calibrations(nodes: Sequence[Node]) -> list[AgentCalibration]:
    """Compute the calibration of each agent that decided, from its own predictions."""
    agents = list(dict.fromkeys(node.decision.agent for node in nodes if node.decision))
    found = [(agent, calibrate(nodes, agent)) for agent in agents]
    return [
        AgentCalibration(short_spec(agent) if len(agents) > 1 else "", one) for agent, one in found if one is not None
    ]
