"""Collect the decisions of a run in one file, from its record alone; the same run gives the same bytes."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sia_core.agents import recording
from sia_core.agents.recorded import RECORDED_BY, is_recorded
from sia_core.agents.registry import WITHOUT_MODEL
from sia_core.domain.config import RunConfig
from sia_core.domain.harness import Harness
from sia_core.domain.json_data import read
from sia_core.domain.lineage import SEED_NODE, Decision, Node
from sia_core.domain.patch import Edit, apply_edits, edits_between
from sia_core.domain.task import Task
from sia_core.domain.usage import ModelUsage
from sia_core.policy.spec import parse_spec
from sia_core.record.phases import AnalyzeDone
from sia_core.record.store import RunRecord
from sia_core.record.tags import Tag

A_MODEL = "a language model"
"""Label of every agent behind a server, instead of its address and name."""


def recording_of(run: RunRecord, task: Task) -> recording.Recording:
    """The decisions of all generations that are done, with what came of them.

    Args:
        run: run with a seed harness.
        task: task of the run.
    """
    nodes, tags, config = run.nodes(), run.tags, run.config
    keys = dict(_keys(run, nodes))
    made = [node for node in nodes if node.index in keys and node.index != SEED_NODE]
    return recording.Recording(
        run=run.name,
        task=recording.TaskName(name=task.name, digest=tags[Tag.TASK_DIGEST]),
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


def _keys(run: RunRecord, nodes: Sequence[Node]) -> Iterator[tuple[int, recording.Key]]:
    """Place of each node by its index: siblings join the lineage in another order than they were decided in."""
    yield SEED_NODE, recording.SEED
    for generation in run.generations():
        phase = generation.phase(AnalyzeDone)
        left = dict(enumerate(phase.decisions)) if phase is not None else {}
        for node in nodes:
            if node.generation == generation.index and node.index != SEED_NODE:
                number = next(number for number, decision in left.items() if decision == node.decision)
                del left[number]
                yield node.index, recording.Key(generation.index, number)


def _entry(
    run: RunRecord, nodes: Sequence[Node], keys: Mapping[int, recording.Key], node: Node, config: RunConfig
) -> recording.RecordedDecision:
    decision, key = node.decision, keys[node.index]
    assert decision is not None and node.parent is not None
    place = keys[node.parent]
    said: dict[str, Any] = {name: getattr(decision, name) for name in recording.SAID}
    return recording.RecordedDecision(
        generation=key.generation,
        sibling=key.sibling,
        parent=recording.Place(generation=place.generation, sibling=place.sibling),
        by="" if decision.agent == config.agent or is_recorded(config.agent) else decision.agent,
        parent_reason=decision.parent_reason,
        knobs=dict(decision.knobs),
        edits=tuple(map(_edit, _whole(run, nodes[node.parent], decision))),
        update=dict(decision.update),
        cites=decision.cites,
        harness=node.candidate.harness,
        promoted=node.promoted,
        failure=node.failure,
        **said,
    )


def _whole(run: RunRecord, parent: Node, decision: Decision) -> Sequence[Edit]:
    """Return the edits as whole texts; agents of earlier versions recorded blocks."""
    if not any(edit.blocks for edit in decision.edits):
        return decision.edits
    before = run.harness(parent.candidate.harness)
    return edits_between(before.files, apply_edits(before, decision.edits).files)


def _edit(edit: Edit) -> recording.RecordedEdit:
    return recording.RecordedEdit(file=edit.file, text=edit.text, delete=edit.delete)


def _label(spec: str, tags: Mapping[str, str]) -> str:
    if is_recorded(spec):
        return tags.get(RECORDED_BY, A_MODEL)
    return spec if spec in WITHOUT_MODEL else A_MODEL


def _used(run: RunRecord, config: RunConfig) -> recording.Used:
    """Requests and tokens of all conversations, that about the first harness among them."""
    parts = [generation.sibling(number) for generation in run.generations() for number in range(config.siblings)]
    found = [part.get_json("agent/conversation.json") for part in (run, *parts)]
    usages = [read(ModelUsage, one["usage"]) for one in found if one is not None]
    usage = sum(usages, ModelUsage())
    dollars = usage.dollars if usages else None
    server = parse_spec(config.agent)
    return recording.Used(
        turns=usage.requests,
        prompt_tokens=usage.prompt_tokens,
        output_tokens=usage.output_tokens,
        dollars=dollars,
        priced_as=server.model if dollars is not None and server is not None else "",
    )


def _first(run: RunRecord, seed: Node, config: RunConfig) -> recording.FirstHarness:
    own = not (config.meta or config.branch_from)
    return recording.FirstHarness(
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
