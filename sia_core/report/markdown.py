"""A generation's decision and its outcome as markdown, for the Prefect UI."""

from sia_core.generation import Node


def decision_markdown(node: Node) -> str:
    """Decision, prediction, gate verdict. Text from agents is put in code blocks, where it is inert."""
    decision = node.decision
    lines = [f"## Generation {node.index}: lever {node.lever}"]
    if decision is not None:
        lines += [
            f"Agent `{decision.agent}`, branching from node {decision.parent}, "
            f"predicted gain {decision.predicted_gain:+.4f}.",
            _inert(decision.reason),
        ]
        lines += [f"Refused before: {_inert(reason)}" for reason in decision.refused]
        if decision.knobs:
            lines.append(_inert("\n".join(f"{name} = {value!r}" for name, value in decision.knobs.items())))
        if decision.cites:
            lines.append("Rests on rollouts " + ", ".join(f"`{key[:12]}`" for key in decision.cites))
    if node.gate is not None:
        verdict = "promoted" if node.promoted else "not promoted"
        lines.append(
            f"Gate: parent {node.gate.parent}, child {node.gate.child}, gain {node.gate.gain}: **{verdict}** "
            f"({node.gate.reason})."
        )
    if node.failure:
        lines.append(f"No child: {_inert(node.failure)}")
    return "\n\n".join(lines)


def _inert(text: str) -> str:
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}\n{text}\n{fence}"
