"""Collect the decisions of a run in one file, from its record alone; the same run gives the same bytes."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sia_core.agents.recorded import RECORDED_BY, is_recorded
from sia_core.agents.recording import (
    SEED,
    FirstHarness,
    Key,
    Place,
    RecordedDecision,
    RecordedEdit,
    Recording,
    TaskName,
    Used,
)
from sia_core.agents.registry import WITHOUT_MODEL
from sia_core.domain.config import RunConfig
from sia_core.domain.harness import Harness
from sia_core.domain.lineage import SEED_NODE, Decision, Node
from sia_core.domain.patch import Edit, apply_edits, edits_between
from sia_core.domain.task import Task
from sia_core.policy.spec import parse_spec
from sia_core.record.phases import AnalyzeDone
from sia_core.record.store import RunRecord
from sia_core.record.tags import Tag

A_MODEL = "a language model"
"""Label of every agent behind a server, instead of its address and name."""


def recording_of(run: RunRecord, task: Task) -> Recording:
    """Collect the decisions of all completed generations, with their outcomes.

    Args:
        run: run with a seed harness.
        task: task of the run.
    """
    nodes, tags, config = run.nodes(), run.tags, run.config
    keys = dict(_keys(run, nodes))
    made = [node for node in nodes if node.index in keys and node.index != SEED_NODE]
    return Recording(
        run=run.name,
        task=TaskName(name=task.name, digest=tags[Tag.TASK_DIGEST]),
        policy=config.policy,
        seed=config.seed,
        generations=max((node.generation for node in made), default=0),
        siblings=config.siblings,
        agent=_label(config.agent, tags),
        made=run.started.date().isoformat(),
        used=_used(run, config),
        sia=tags.get(Tag.VERSION, ""),
        code=tags.get(Tag.FINGERPRINT_CODE, ""),
        first=_first(run, nodes[SEED_NODE], config),
        decisions=tuple(
            _entry(run, nodes, keys, node, config) for node in sorted(made, key=lambda node: keys[node.index])
        ),
    )


def _keys(run: RunRecord, nodes: Sequence[Node]) -> Iterator[tuple[int, Key]]:
    """Yield the place of each node, because siblings join the lineage in another order than they were decided in."""
    yield SEED_NODE, SEED
    for generation in run.generations():
        phase = generation.phase(AnalyzeDone)
        left = dict(enumerate(phase.decisions)) if phase is not None else {}
        for node in nodes:
            if node.generation == generation.index and node.index != SEED_NODE:
                number = next(number for number, decision in left.items() if decision == node.decision)
                del left[number]
                yield node.index, Key(generation.index, number)


def _entry(
    run: RunRecord, nodes: Sequence[Node], keys: Mapping[int, Key], node: Node, config: RunConfig
) -> RecordedDecision:
    decision, key = node.decision, keys[node.index]
    assert decision is not None and node.parent is not None
    place = keys[node.parent]
    return RecordedDecision(
        generation=key.generation,
        sibling=key.sibling,
        lever=decision.lever,
        parent=Place(generation=place.generation, sibling=place.sibling),
        by="" if decision.agent == config.agent or is_recorded(config.agent) else decision.agent,
        parent_reason=decision.parent_reason,
        reason=decision.reason,
        hypothesis=decision.hypothesis,
        category=decision.category,
        predicted_gain=decision.predicted_gain,
        predicted_range=decision.predicted_range,
        knobs=dict(decision.knobs),
        edits=tuple(map(_edit, _whole(run, nodes[node.parent], decision))),
        update=dict(decision.update),
        fixes=decision.fixes,
        risks=decision.risks,
        falsifier=decision.falsifier,
        memo=decision.memo,
        cites=decision.cites,
        harness=node.candidate.harness,
        promoted=node.promoted,
        failure=node.failure,
    )


def _whole(run: RunRecord, parent: Node, decision: Decision) -> Sequence[Edit]:
    """Return the edits as whole texts; agents of earlier versions recorded blocks."""
    if not any(edit.blocks for edit in decision.edits):
        return decision.edits
    before = run.harness(parent.candidate.harness)
    return edits_between(before.files, apply_edits(before, decision.edits).files)


def _edit(edit: Edit) -> RecordedEdit:
    return RecordedEdit(file=edit.file, text=edit.text, delete=edit.delete)


def _label(spec: str, tags: Mapping[str, str]) -> str:
    if is_recorded(spec):
        return tags.get(RECORDED_BY, A_MODEL)
    return spec if spec in WITHOUT_MODEL else A_MODEL


def _used(run: RunRecord, config: RunConfig) -> Used:
    """Sum requests and tokens of all conversations, including the one about the first harness."""
    parts = [generation.sibling(number) for generation in run.generations() for number in range(config.siblings)]
    found = [part.get_json("agent/conversation.json") for part in (run, *parts)]
    usages: list[Mapping[str, Any]] = [one["usage"] for one in found if one is not None]
    dollars = [usage["dollars"] for usage in usages if usage["dollars"] is not None]
    priced = bool(usages) and len(dollars) == len(usages)
    server = parse_spec(config.agent)
    return Used(
        turns=sum(usage["requests"] for usage in usages),
        prompt_tokens=sum(usage["prompt_tokens"] for usage in usages),
        output_tokens=sum(usage["output_tokens"] for usage in usages),
        dollars=sum(dollars) if priced else None,
        priced_as=server.model if priced and server is not None else "",
    )


def _first(run: RunRecord, seed: Node, config: RunConfig) -> FirstHarness:
    own = not (config.meta or config.branch_from)
    return FirstHarness(
        harness=seed.candidate.harness,
        adapter=seed.candidate.adapter,
        files=None if own else _texts(run.harness(seed.candidate.harness)),
    )


def _texts(harness: Harness) -> dict[str, str] | None:
    """Return a harness's files as texts; None if a file is not text, which a file of decisions cannot hold."""
    try:
        return {name: data.decode() for name, data in sorted(harness.files.items())}
    except UnicodeDecodeError:
        return None
