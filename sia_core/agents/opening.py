"""The first message to a Feedback-Agent: an overview, with details available through tools."""

from collections.abc import Iterator

from sia_core.agents.library import Library, describe
from sia_core.agents.protocol import Situation
from sia_core.agents.quote import elide, one_line, quote
from sia_core.agents.transcript import short
from sia_core.agents.trying import listed
from sia_core.domain.lineage import champion

_TASK, _NODES, _EXAMPLES, _EXAMPLE = 6000, 12, 4, 3000


def opening(situation: Situation, library: Library) -> str:
    """Write task, evidence, lineage, harness, and the examples most worth reading."""
    return "\n\n".join(_sections(situation, library))


def _sections(situation: Situation, library: Library) -> Iterator[str]:
    yield f"# Generation {situation.generation} of {max(situation.generations, situation.generation)}"
    if situation.spending:
        yield f"## Budget\n{situation.spending}\nFor this decision: {library.left()}"
    if memos := [node.decision.memo for node in situation.nodes if node.decision and node.decision.memo]:
        yield f"## Your memo from the last decision\n{quote(memos[-1], 'memo', limit=_TASK)}"
    if situation.task:
        yield f"## The task\n{elide(situation.task, _TASK)}"
    if situation.metrics:
        rows = [f"- {name}: {about}" for name, about in situation.metrics.items()]
        yield "\n".join(["## Metrics of a verdict", *rows])
    yield f"## Evidence\n{_evidence(situation)}"
    yield f"## Lineage, newest last\n{_lineage(situation)}"
    yield f"## Lever memory\n{library.memory()}"
    yield f"## Problems\n{library.problems(None, 0)}"
    yield f"## Replies of the policy, most frequent first\n{library.said()}"
    yield f"## Texts to read\n{listed(list(library.texts()))}"
    yield f"## The executed harness\n{library.files(situation.executed)}\n{_knobs(situation)}"
    examples = situation.evidence.examples[:_EXAMPLES]
    shown = "\n\n".join(library.example(key, _EXAMPLE) for key in examples)
    more = ", ".join(short(key) for key in situation.evidence.examples[_EXAMPLES:])
    title = "Rollouts worth reading first, unlike each other: failures, low scores, the best"
    yield f"## {title}\n{shown}\n\nMore: {more or 'none'}"
    if situation.siblings:
        made = [f"{sibling.lever}, {sibling.category or '-'}: {sibling.hypothesis}" for sibling in situation.siblings]
        shown = quote("\n".join(made), "decisions", limit=_EXAMPLE)
        yield f"## Decided already in this generation; decide on another hypothesis, or stop\n{shown}"
    if situation.refused:
        refused = "\n".join(situation.refused)
        yield f"## Refused before\n{quote(refused, 'reasons', limit=_EXAMPLE)}"


def _evidence(situation: Situation) -> str:
    evidence = situation.evidence
    failures = ", ".join(f"{kind} {share:.1%}" for kind, share in evidence.failures.items()) or "none"
    trainable = "with token ids and logprobs" if evidence.trainable else "without token ids: weights cannot be trained"
    costs = ", ".join(f"{lever} {cost} rollouts" for lever, cost in situation.costs.items())
    limits = [f"- a rewrite of the harness: {situation.edit_limits}"] if situation.edit_limits else []
    gate = [f"- {line}" for line in situation.gate.describe().splitlines()] if situation.gate else []
    return "\n".join(
        [
            f"- from node {situation.executed} ({evidence.score.rollouts} rollouts, {trainable})",
            f"- score {evidence.score.basis}; best of {evidence.group_size} per problem: {evidence.best_of:.4f}",
            f"- groups with more than one outcome {evidence.mixed:.0%}, with one only {evidence.constant:.0%}",
            f"- failures: {failures}; unscored {evidence.unscored}",
            *([f"- replies of the policy: {evidence.replies}"] if evidence.replies.unusable else []),
            f"- a weight update on these rollouts: {situation.suggested or 'not possible with this policy'}",
            f"- price of a lever, gate included: {costs}",
            *limits,
            *gate,
        ]
    )


def _lineage(situation: Situation) -> str:
    nodes = situation.nodes
    best = champion(list(nodes)).index
    rows = [
        f"- node {node.index} (parent {node.parent}, {node.lever}){' = champion' if node.index == best else ''}: "
        f"{one_line(describe(node), 300)}"
        for node in nodes[-_NODES:]
    ]
    hidden = len(nodes) - len(rows)
    text = "\n".join([f"({hidden} older nodes: list_nodes)", *rows] if hidden else rows)
    return quote(text, "lineage", limit=_TASK)


def _knobs(situation: Situation) -> str:
    knobs = situation.harness.config.knobs
    if not knobs:
        return "It declares no knobs."
    rows = [
        f"- {name} = {knob.value!r}, {f'one of {list(knob.options)}' if knob.options else f'within {knob.range}'}"
        f"{': ' + knob.help if knob.help else ''}"
        for name, knob in knobs.items()
    ]
    return quote("\n".join(rows), "knobs", limit=_TASK)
