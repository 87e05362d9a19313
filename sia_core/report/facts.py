"""Read everything that a report shows of a run from the record, once.

For an unfinished run, each phase that is not complete is None. Only the flat columns of rollouts are read, and
`Played.some` reads the few whole records that are shown.
"""

import contextlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sia_core.domain.config import RunConfig
from sia_core.domain.errors import RecordError
from sia_core.domain.json_data import read
from sia_core.domain.lineage import Decision, Evidence, LadderReport, Node
from sia_core.domain.patch import unified_diff
from sia_core.domain.rollout import Rollout
from sia_core.domain.stats import Scores
from sia_core.record.arms import SCORES, ArmsRecord
from sia_core.record.generation import GenerationRecord
from sia_core.record.parquet import Row, read_rows, read_some
from sia_core.record.phases import AnalyzeDone, ApprovalDone, ExecuteDone, SealedDone, StopDone
from sia_core.record.store import RunRecord
from sia_core.record.tags import Tag
from sia_core.report.decided import AgentCalibration, calibrations

Curves = Mapping[str, Sequence[tuple[int, float]]]
"""Metric -> (step, value) of each optimiser step."""


@dataclass(frozen=True)
class Played:
    """A stored set of rollouts."""

    name: str
    """`train`, `round_N`, `anchors_SIDE` or `gate_SIDE`."""
    rows: tuple[Row, ...]
    stored: GenerationRecord

    def some(self, keys: Collection[str]) -> list[Rollout]:
        """Read the whole records of these units."""
        return read_some(self.stored.rollout_file(self.name) or b"", keys) if keys else []

    @property
    def scores(self) -> dict[str, list[float]]:
        """Collect the scores by problem, without unscored rollouts."""
        found: dict[str, list[float]] = {}
        for row in self.rows:
            if row.score is not None:
                found.setdefault(row.problem, []).append(row.score)
        return found


@dataclass(frozen=True)
class Update:
    """A weight update, with or without a resulting child."""

    spec: Mapping[str, Any]
    curves: Curves
    rounds: Mapping[str, Any] | None
    """`stopped`, `kept`, `fallback`; None if the update was interrupted."""
    anchors: Mapping[str, Any] | None


@dataclass(frozen=True)
class Child:
    """Outcome of a decision of a generation."""

    number: int
    """Number of the sibling, from 0."""
    decision: Decision
    node: Node | None
    ladder: LadderReport | None
    diff: str | None
    """Diff from the parent's harness to the rewrite; None if there is no rewrite or it was not stored."""
    update: Update | None
    played: Mapping[str, Played]
    """Rollouts of the gate and of training rounds."""
    conversation: Mapping[str, Any] | None
    """Conversation of an agent with a language model; None if none is stored."""


@dataclass(frozen=True)
class Generation:
    """A generation of the run."""

    index: int
    executed: int | None
    """Node that was rolled out."""
    why: str
    evidence: Evidence | None
    train: Played | None
    children: tuple[Child, ...]
    approval: ApprovalDone | None


@dataclass(frozen=True)
class Facts:
    """Contents of a report on a run."""

    name: str
    run_id: str
    experiment_id: str
    status: str
    started: int
    """Milliseconds since the epoch."""
    ended: int | None
    tags: Mapping[str, str]
    config: RunConfig
    nodes: tuple[Node, ...]
    generations: tuple[Generation, ...]
    calibrations: tuple[AgentCalibration, ...]
    """Calibration of each agent's predictions."""
    test: SealedDone | None
    sealed: tuple[Scores, Scores] | None
    """Scores by problem of the seed and of the final candidate."""
    stop: StopDone | None
    spending: Mapping[str, Any] | None
    sandbox: Mapping[str, Any] | None
    environment: Mapping[str, Any] | None
    """None for a run of a version that did not record it."""
    arms: Mapping[str, Any] | None
    """The finished comparison that the run is a member of."""


def read_facts(run: RunRecord) -> Facts:
    """Read a run.

    Raises:
        RecordError: the run never began, or an artifact was changed.
    """
    info, tags = run.record.client.get_run(run.run_id).info, run.tags
    nodes = run.nodes()
    scores = run.get_json(SCORES)
    return Facts(
        name=run.name,
        run_id=run.run_id,
        experiment_id=run.experiment_id,
        status=str(info.status),
        started=int(info.start_time),
        ended=int(info.end_time) if info.end_time else None,
        tags=tags,
        config=run.config,
        nodes=tuple(nodes),
        generations=tuple(_generation(run, generation, nodes) for generation in run.generations()),
        calibrations=tuple(calibrations(nodes)),
        test=run.phase(SealedDone),
        sealed=None if scores is None else (scores["seed"], scores["final"]),
        stop=run.phase(StopDone),
        spending=run.get_json("spending.json"),
        sandbox=run.get_json("sandbox.json"),
        environment=run.get_json("environment.json"),
        arms=ArmsRecord.open(run.record, tags[Tag.ARMS]).get_json("comparison.json") if Tag.ARMS in tags else None,
    )


def _generation(run: RunRecord, stored: GenerationRecord, nodes: Sequence[Node]) -> Generation:
    execute, analyze = stored.phase(ExecuteDone), stored.phase(AnalyzeDone)
    decisions = () if analyze is None else analyze.decisions
    made = [node for node in nodes if node.generation == stored.index and node.parent is not None]
    children = []
    for number, decision in enumerate(decisions):
        node = next((node for node in made if node.decision == decision), None)
        children.append(_child(run, stored.sibling(number), number, decision, node, nodes))
    return Generation(
        index=stored.index,
        executed=None if execute is None else execute.node,
        why="" if execute is None else execute.why,
        evidence=None if analyze is None else analyze.evidence,
        train=_played(stored, "train"),
        children=tuple(children),
        approval=stored.phase(ApprovalDone),
    )


def _child(
    run: RunRecord, stored: GenerationRecord, number: int, decision: Decision, node: Node | None, nodes: Sequence[Node]
) -> Child:
    ladder = stored.get_json("ladder.json")
    report = None if ladder is None else read(LadderReport, ladder)
    sets = {name: _played(stored, name) for name in stored.rollout_sets() if name != "train"}
    return Child(
        number=number,
        decision=decision,
        node=node,
        ladder=report,
        diff=None if report is None else _diff(run, nodes[decision.parent], report.child),
        update=_update(stored),
        played={name: played for name, played in sets.items() if played is not None},
        conversation=stored.get_json("agent/conversation.json"),
    )


def _diff(run: RunRecord, parent: Node, child: str) -> str | None:
    with contextlib.suppress(RecordError):  # A rewrite that fails at the first rung need not have been stored.
        return unified_diff(run.harness(parent.candidate.harness).files, run.harness(child).files)
    return None


def _update(stored: GenerationRecord) -> Update | None:
    spec = stored.get_json("update/spec.json")
    if spec is None:
        return None
    return Update(
        spec,
        stored.metric_history("update."),
        stored.get_json("update/rounds.json"),
        stored.get_json("update/anchors.json"),
    )


def _played(stored: GenerationRecord, name: str) -> Played | None:
    data = stored.rollout_file(name)
    return None if data is None else Played(name, tuple(read_rows(data)), stored)
