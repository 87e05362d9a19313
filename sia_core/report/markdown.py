"""Format a generation's decision and its outcome as markdown, for the Prefect UI.

Texts of agents stand in fences that they cannot close, or between backticks that they cannot contain, so that markdown
in these texts has no effect. They are cut, and unprintable characters are spelled out.
"""

import re
from collections.abc import Iterator

from sia_core.agents.quote import elide, one_line, spell
from sia_core.domain.lineage import Decision, Node

_BLOCK, _WORD = 20_000, 200
"""Characters shown of a text, and of a name."""
_DIFF = 2_000_000
"""Characters shown of a diff that you approve: more than two harnesses can hold."""


def decision_markdown(node: Node, diff: str = "") -> str:
    """Format decision, prediction, gate verdict and change of the harness, with agents' texts inert."""
    lines = [f"## Generation {node.generation}, node {node.index}: lever {node.lever}"]
    if node.decision is not None:
        lines += _decision(node.decision)
    if node.gate is not None:
        verdict = "promoted" if node.promoted else "not promoted"
        lines.append(
            f"Gate: parent {node.gate.parent}, child {node.gate.child}, gain {node.gate.gain}: **{verdict}** "
            f"after {node.gate.looks} of {node.gate.most_looks} looks ({_code(node.gate.reason)})."
        )
    if node.failure:
        lines.append(f"No child:\n\n{_inert(node.failure)}")
    if diff:
        lines.append(_inert(diff, "diff"))
    return "\n\n".join(lines)


def proposal_markdown(decision: Decision, diff: str) -> str:
    """Format a decision that awaits approval, with its change of the harness."""
    lines = [f"## Lever {decision.lever}, to be approved", *_decision(decision)]
    if diff:
        lines.append(_inert(diff, "diff", _DIFF))
    return "\n\n".join(lines)


def _decision(decision: Decision) -> Iterator[str]:
    low_high = decision.predicted_range
    span = f" ({low_high[0]:+.4f} to {low_high[1]:+.4f})" if low_high else ""
    if decision.instead_of:
        yield f"**Decided in place of {_code(decision.instead_of)}**, which came to no decision."
    yield (
        f"Agent {_code(decision.agent)}, branching from node {decision.parent}, "
        f"predicted gain {decision.predicted_gain:+.4f}{span}."
    )
    yield _inert(decision.reason)
    if decision.hypothesis:
        yield f"Hypothesis ({_code(decision.category or '-')}):\n\n{_inert(decision.hypothesis)}"
    if decision.falsifier:
        yield f"Falsified by:\n\n{_inert(decision.falsifier)}"
    yield from (f"Refused before:\n\n{_inert(reason)}" for reason in decision.refused)
    if decision.edits:
        yield "Edits of " + ", ".join(_code(edit.file) for edit in decision.edits)
    settings = {**decision.knobs, **decision.update}
    if settings:
        yield _inert("\n".join(f"{name} = {value!r}" for name, value in settings.items()))
    if decision.cites:
        yield "Rests on rollouts " + ", ".join(_code(key[:12]) for key in decision.cites)


def cell(text: str) -> str:
    """Format a table cell for the Prefect UI, which reads cells as markdown; plain words and figures stay unquoted."""
    plain = re.fullmatch(r"[\w\s.,:=+()%-]*|[-+\d.\s]*\[[-+\d.\s,]*\]", text) and "www." not in text
    return text if plain else _code(text)


def _code(text: str) -> str:
    """Quote a name within a line, without backticks and line breaks, which could end the code span."""
    return f"`{one_line(text, _WORD).replace('`', chr(39)) or '-'}`"


def _inert(text: str, language: str = "", limit: int = _BLOCK) -> str:
    """Quote a text as a fenced block, which must begin a paragraph to count as a fence."""
    text = spell(elide(text, limit))
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}{language}\n{text}\n{fence}"
