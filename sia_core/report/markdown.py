"""A generation's decision and its outcome as markdown, for the Prefect UI."""

from collections.abc import Iterator

from sia_core.generation import Decision, Node


def decision_markdown(node: Node) -> str:
    """Decision, prediction, gate verdict. Text from agents is put in code blocks, where it is inert."""
    lines = [f"## Generation {node.generation}, node {node.index}: lever {node.lever}"]
    if node.decision is not None:
        lines += _decision(node.decision)
    if node.gate is not None:
        verdict = "promoted" if node.promoted else "not promoted"
        lines.append(
            f"Gate: parent {node.gate.parent}, child {node.gate.child}, gain {node.gate.gain}: **{verdict}** "
            f"after {node.gate.looks} of {node.gate.most_looks} looks ({node.gate.reason})."
        )
    if node.failure:
        lines.append(f"No child: {_inert(node.failure)}")
    return "\n\n".join(lines)


def proposal_markdown(decision: Decision, diff: str) -> str:
    """A decision that is not carried out yet, with what it would change of the harness."""
    lines = [f"## Lever {decision.lever}, to be approved", *_decision(decision)]
    if diff:
        lines.append(_inert(diff, "diff"))
    return "\n\n".join(lines)


def _decision(decision: Decision) -> Iterator[str]:
    low_high = decision.predicted_range
    span = f" ({low_high[0]:+.4f} to {low_high[1]:+.4f})" if low_high else ""
    yield (
        f"Agent `{decision.agent}`, branching from node {decision.parent}, "
        f"predicted gain {decision.predicted_gain:+.4f}{span}."
    )
    yield _inert(decision.reason)
    if decision.hypothesis:
        yield f"Hypothesis ({decision.category}): {_inert(decision.hypothesis)}"
    if decision.falsifier:
        yield f"Falsified by: {_inert(decision.falsifier)}"
    yield from (f"Refused before: {_inert(reason)}" for reason in decision.refused)
    if decision.edits:
        yield "Edits of " + ", ".join(_inert(edit.file) for edit in decision.edits)
    settings = {**decision.knobs, **decision.update}
    if settings:
        yield _inert("\n".join(f"{name} = {value!r}" for name, value in settings.items()))
    if decision.cites:
        yield "Rests on rollouts " + ", ".join(f"`{key[:12]}`" for key in decision.cites)


def _inert(text: str, language: str = "") -> str:
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}{language}\n{text}\n{fence}"
