"""Format a generation as a section of the report: evidence, decisions, outcomes, transcripts of rollouts."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from statistics import fmean
from typing import Any

from markupsafe import Markup

from sia_core.agents.quote import elide
from sia_core.agents.transcript import short
from sia_core.domain.backend import describe_backend
from sia_core.domain.lineage import DRAFT_ID, Decision, Evidence, GateVerdict, Node
from sia_core.report import charts
from sia_core.report.diff import read_diff
from sia_core.report.facts import Child, Facts, Generation, Played, Update
from sia_core.report.html import environment
from sia_core.report.problems import cut_note, pair_rows, pair_up, tally
from sia_core.report.sample import choose
from sia_core.report.sections import Section, curve_table, minutes
from sia_core.report.transcript import view

LONG, MIDDLE = 20_000, 4_000
"""Characters shown of a reason, and of an agent's other texts."""
_ASKED = ("rounds", "steps", "learning_rate", "rank")
CURVES = ("reward", "loss", "kl", "kl_base", "entropy", "gap", "clipped", "grad_norm", "value_loss")
"""Metrics of an update that are drawn unless they are always 0."""


_DRAFT = "draft_"


@dataclass
class Shelf:
    """Count of the transcripts that are shown and left out."""

    room: int
    """Bytes available for the transcripts of one generation."""
    shown: set[str] = field(default_factory=set)
    """Units with a transcript; each is shown once."""
    total: int = 0
    """Number of all rollouts."""


def tell(facts: Facts, generation: Generation, shelf: Shelf) -> Section:
    """Format one generation."""
    cited = {key for child in generation.children for key in child.decision.cites}
    sets = list(_sets(generation))
    transcripts: list[Markup] = []
    rows, room = [], shelf.room
    for name, played in sets:
        made, left = _transcripts(name, played, cited, shelf, room)
        room -= left
        transcripts += made
        rows.append(_set_row(name, played, len(made)))
        shelf.total += len(played.rows)
    return {
        "index": generation.index,
        "headline": _headline(generation),
        "evidence": None if generation.evidence is None else _evidence(generation.evidence),
        "children": [_child(facts, generation, child, shelf) for child in generation.children],
        "sets": rows,
        "transcripts": transcripts,
    }


def _sets(generation: Generation) -> Iterator[tuple[str, Played]]:
    if generation.train is not None:
        yield "train", generation.train
    several = len(generation.children) > 1
    for child in generation.children:
        # Drafts last: there may be many, and the transcripts shown are bounded.
        for name in sorted(child.played, key=lambda name: name.startswith(_DRAFT)):
            yield f"{_set_name(name)}{f', sibling {child.number}' if several else ''}", child.played[name]


def _set_name(name: str) -> str:
    if name.startswith(_DRAFT):
        return f"draft {name.removeprefix(_DRAFT)[:DRAFT_ID]}"
    return name.replace("_", ", ")


def _set_row(name: str, played: Played, shown: int) -> tuple[str, ...]:
    rows = played.rows
    known = [row.score for row in rows if row.score is not None]
    return (
        name,
        str(len(rows)),
        f"{fmean(known):.4f}" if known else "-",
        str(sum(row.failure is not None and row.score is not None for row in rows)),
        str(len(rows) - len(known)),
        f"{sum(row.tokens for row in rows):,}",
        minutes(sum(row.seconds for row in rows)),
        str(shown),
    )


def _transcripts(
    name: str, played: Played, cited: Collection[str], shelf: Shelf, room: int
) -> tuple[list[Markup], int]:
    """Return the transcripts of a set that fit into the room, and their bytes."""
    macro = environment().get_template("rollout.html.j2").module.rollout  # type: ignore[attr-defined]
    wanted = [row.key for row in choose(played.rows, cited) if row.key not in shelf.shown]
    found = {rollout.unit.key: rollout for rollout in played.some(set(wanted))}
    made: list[Markup] = []
    taken = 0
    for key in wanted:
        markup = macro(view(found[key]), name, key in cited)
        size = len(markup.encode())
        if taken + size <= room:
            made.append(markup)
            shelf.shown.add(key)
            taken += size
    return made, taken


def _headline(generation: Generation) -> str:
    if generation.executed is None:
        return "Begun; nothing is complete yet."
    said = f"Node {generation.executed} was executed ({generation.why or 'the champion'})."
    if generation.approval is not None:
        word = "approved" if generation.approval.approved else "rejected"
        note = elide(generation.approval.note, MIDDLE)
        said += f" A person {word} the decision{f': {note}' if note else '.'}"
    return said


def _evidence(evidence: Evidence) -> list[tuple[str, str]]:
    failures = ", ".join(f"{elide(kind, 60)} {share:.0%}" for kind, share in sorted(evidence.failures.items()))
    candidate = evidence.candidate
    adapter = f"adapter {short(candidate.adapter)}" if candidate.adapter else "no adapter"
    return [
        ("candidate", f"harness {short(candidate.harness)}, {adapter}"),
        ("score", f"{evidence.score} over {evidence.score.problems} problems, {evidence.score.rollouts} rollouts"),
        (f"best of {evidence.group_size}", f"{evidence.best_of:.4f}"),
        ("groups with mixed outcomes", f"{evidence.mixed:.0%}; with one outcome {evidence.constant:.0%}"),
        ("failures", failures or "none"),
        ("unscored", str(evidence.unscored)),
        *([("replies of the policy", str(evidence.replies))] if evidence.replies.unusable else []),
        ("trainable", "yes" if evidence.trainable else "no: token ids or logprobs are missing"),
    ]


def _child(facts: Facts, generation: Generation, child: Child, shelf: Shelf) -> Section:
    decision, node = child.decision, child.node
    lines, more = read_diff(child.diff) if child.diff else ([], 0)
    title = f", sibling {child.number}" if len(generation.children) > 1 else ""
    return {
        "title": title,
        "facts": list(_decision(decision)),
        "reason": elide(decision.reason, LONG),
        "texts": list(_texts(decision)),
        "cites": [(f"r-{key[:16]}", short(key), key in shelf.shown) for key in decision.cites],
        "conversation": _conversation(child.conversation),
        "diff": lines,
        "diff_more": more,
        "rungs": [
            (rung.rung, "passed" if rung.passed else "rejected", _why(rung.reason, rung.details), f"{rung.seconds:.1f}")
            for rung in (child.ladder.rungs if child.ladder else ())
        ],
        "training": None if child.update is None else _update(child.update, f"{generation.index}-{child.number}"),
        "outcome": _outcome(node),
        "mood": "good" if node and node.promoted else "bad" if node and node.failure else "note",
        "gate": None if node is None or node.gate is None else _gate(facts, generation, child, node, node.gate),
    }


def _decision(decision: Decision) -> Iterator[tuple[str, str]]:
    yield "lever", decision.lever
    yield "by", elide(decision.agent, 200)
    if decision.instead_of:
        yield "in place of", f"{elide(decision.instead_of, 200)}, which came to no decision"
    yield "branches from", f"node {decision.parent}"
    span = decision.predicted_range
    yield "predicted gain", f"{decision.predicted_gain:+.4f}" + (f" ({span[0]:+.4f} to {span[1]:+.4f})" if span else "")
    if decision.category:
        yield "kind of hypothesis", elide(decision.category, 200)
    for name, values in (("knobs", decision.knobs), ("settings of the update", decision.update)):
        if values:
            yield name, elide(", ".join(f"{key} = {value!r}" for key, value in values.items()), MIDDLE)
    if decision.edits:
        yield "edits", elide(", ".join(edit.file for edit in decision.edits), MIDDLE)
    for name, problems in (("problems it should fix", decision.fixes), ("problems at risk", decision.risks)):
        if problems:
            yield name, elide(", ".join(problems), MIDDLE)


def _texts(decision: Decision) -> Iterator[tuple[str, str]]:
    named = (
        ("why not the proposed node", decision.parent_reason),
        ("hypothesis", decision.hypothesis),
        ("would show it wrong", decision.falsifier),
    )
    yield from ((name, elide(text, MIDDLE)) for name, text in named if text)
    yield from (("refused before", elide(reason, MIDDLE)) for reason in decision.refused[:8])


def _conversation(kept: Mapping[str, Any] | None) -> str:
    if kept is None:
        return ""
    usage = kept.get("usage", {})
    if not kept.get("usage_known", True):
        return (
            f"The agent's command was started {usage.get('requests', 0)} times and tried {kept.get('trials', 0)} "
            "drafts; the usage of its model is not known. Its output is in agent/conversation.json in MLflow."
        )
    return (
        f"The agent's conversation took {usage.get('requests', 0)} requests, {usage.get('prompt_tokens', 0):,} prompt "
        f"and {usage.get('output_tokens', 0):,} output tokens; it is agent/conversation.json in MLflow."
    )


def _why(reason: str, details: Sequence[str]) -> str:
    return elide("; ".join([reason, *details]), MIDDLE)


def _outcome(node: Node | None) -> str:
    if node is None:
        return "Not decided yet."
    if node.failure:
        return f"No child: {elide(node.failure, MIDDLE)}"
    if node.gate is None:
        return "The run ended with this decision." if node.lever == "stop" else "No lever was pulled."
    verdict = "Promoted" if node.promoted else f"Not promoted ({node.gate.outcome})"
    decision = node.decision
    predicted = f" Predicted {decision.predicted_gain:+.4f}, observed {node.gate.gain.mean:+.4f}." if decision else ""
    return f"{verdict}: {elide(node.gate.reason, MIDDLE)}.{predicted}"


def _gate(facts: Facts, generation: Generation, child: Child, node: Node, gate: GateVerdict) -> Section:
    sides = [child.played[name].scores if name in child.played else {} for name in ("gate_parent", "gate_child")]
    pairs = pair_up(*sides)
    confidence = f"{facts.config.confidence:.0%}"
    found = [
        ("child", f"node {node.index}: {gate.child}"),
        ("parent", f"node {node.parent}: {gate.parent}"),
        ("gain", f"{gate.gain}; at least {gate.gain.bound:+.4f} at {confidence}, over all looks"),
        ("looks", f"{gate.looks} of {gate.most_looks}, {gate.gain.problems} problems"),
        ("tokens, child over parent", f"{gate.token_ratio:.2f}"),
    ]
    if gate.margin:
        found.append(("had to exceed", f"{gate.margin:.4f}, for it takes more tokens"))
    if gate.against is not None:
        passed = "passed" if gate.against.passed else "not passed"
        found.append(("against the best earlier node", f"node {gate.against.node}: {gate.against.gain}, {passed}"))
    found.append(("cost", f"{node.cost.rollouts} rollouts, {node.cost.tokens:,} tokens, {minutes(node.cost.seconds)}"))
    name = f"gain-{generation.index}-{child.number}"
    title = f"Gain by gate problem, generation {generation.index}"
    return {
        "facts": found,
        "chart": charts.difference_chart(name, title, [pair.difference for pair in pairs]) if pairs else "",
        "rows": pair_rows(pairs),
        "cut": cut_note(len(pairs)),
        "tally": tally(pairs),
    }


def _update(update: Update, name: str) -> Section:
    spec, rounds = update.spec, update.rounds
    steps = int(spec.get("steps", 0))
    curves = {metric: [one for one in points if isfinite(one[1])] for metric, points in update.curves.items()}
    drawn = [metric for metric in CURVES if any(value for _, value in curves.get(metric, ()))]
    columns, rows = curve_table(curves)
    found = [
        ("algorithm", str(spec.get("algorithm", "?"))),
        ("backend", describe_backend(spec)),
        (
            "asked for",
            "{} rounds of {} steps, learning rate {}, rank {}".format(*(spec.get(name, "?") for name in _ASKED)),
        ),
        ("begun from", f"adapter {short(spec['parent_adapter'])}" if spec.get("parent_adapter") else "the bare policy"),
    ]
    if rounds is not None:
        found.append(("kept", f"round {rounds['kept']} of {len(rounds['history'])}" if rounds["kept"] else "no round"))
        if rounds["stopped"]:
            found.append(("ended because", elide(str(rounds["stopped"]), MIDDLE)))
    if update.anchors is not None:
        found.append(("anchor problems", elide(str(update.anchors["reason"]), MIDDLE)))
    return {
        "facts": found,
        "charts": [charts.curve_chart(f"curve-{name}-{metric}", metric, curves[metric], steps) for metric in drawn],
        "columns": columns,
        "rows": rows,
        "numbers": range(len(columns)),
    }
