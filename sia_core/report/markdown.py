"""A generation's decision and its outcome as markdown, for the Prefect UI.

What agents wrote is put where markdown has no say: in fences that the text cannot close, or between backticks that it
cannot contain; cut, and with what does not print spelled out.
"""

import re
from collections.abc import Iterator

from sia_core.agents.quote import elide, one_line, spell
from sia_core.domain.lineage import Decision, Node

_BLOCK, _WORD = 20_000, 200
"""Characters of a text, and of a word or two."""
_DIFF = 2_000_000
"""Characters of a difference that a person is to approve: more than two harnesses can hold."""


def decision_markdown(node: Node, diff: str = "") -> str:
    """Decision, prediction, gate verdict, change of the harness. Text from agents is inert."""
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
    """A decision that is not carried out yet, with what it would change of the harness."""
    lines = [f"## Lever {decision.lever}, to be approved", *_decision(decision)]
    if diff:
        lines.append(_inert(diff, "diff", _DIFF))
    return "\n\n".join(lines)


def _decision(decision: Decision) -> Iterator[str]:
    low_high = decision.predicted_range
    span = f" ({low_high[0]:+.4f} to {low_high[1]:+.4f})" if low_high else ""
    if decision.instead_of:
        yield f"**Decided in the place of {_code(decision.instead_of)}**, which came to no decision."
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
    """Format a cell of a table in the Prefect UI, which reads cells as markdown. Words and figures stay as they are."""
    plain = re.fullmatch(r"[\w\s.,:=+()%-]*|[-+\d.\s]*\[[-+\d.\s,]*\]", text) and "www." not in text
    return text if plain else _code(text)


def _code(text: str) -> str:
    """A name within a line. Without backticks and line breaks nothing can end the code span."""
    return f"`{one_line(text, _WORD).replace('`', chr(39)) or '-'}`"


def _inert(text: str, language: str = "", limit: int = _BLOCK) -> str:
    """A fenced block. It must begin a paragraph: in the middle of a line backticks are no fence."""
    text = spell(elide(text, limit))
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}{language}\n{text}\n{fence}"
