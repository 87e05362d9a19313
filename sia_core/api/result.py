"""Present the frozen result of a run, scores, lineage and winner, as an object, a table and a plot."""

import html
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sia_core.domain.errors import RecordError, UsageError
from sia_core.domain.lineage import Node, champion
from sia_core.domain.stats import Estimate, Gain
from sia_core.record.phases import SealedDone
from sia_core.record.store import RunRecord
from sia_core.record.tags import Tag
from sia_core.report.decided import stand_in_lines
from sia_core.report.table import COLUMNS, lineage_rows, replies_lines, sealed_lines

if TYPE_CHECKING:
    from sia_core.export.manifest import Manifest


@dataclass(frozen=True)
class Step:
    """Candidate of the lineage."""

    node: int
    generation: int
    """Generation of the candidate; 0 for the seed."""
    parent: int | None
    lever: str
    score: Estimate | None
    """Score on fresh gate problems; None if none were played."""
    gain: Gain | None
    """Gain over the parent on the same problems."""
    promoted: bool
    failure: str
    """Reason why there is no child; empty if there is one."""


@dataclass(frozen=True)
class Result:
    """A finished run. Scores of steps helped to choose; `sealed` is the score to report."""

    run: str
    """Name of the run, as in `sia status RUN` and `sia export RUN DIR`."""
    task: str
    steps: tuple[Step, ...]
    """Steps of the lineage, the seed first."""
    winner: int
    """Node of the final candidate."""
    sealed: Estimate
    """Score of the final candidate on the sealed test."""
    seed_sealed: Estimate
    """Score of the seed candidate on the sealed test."""
    gain: Gain
    """Final minus seed, paired over the sealed problems."""
    confidence: float
    """Confidence level of all intervals, two-sided."""
    harness: Mapping[str, bytes] = field(repr=False)
    """Files of the winner's harness, by name."""
    adapter: Path | None
    """Directory of the winner's adapter in PEFT layout; None for the bare policy."""
    rows: tuple[Mapping[str, str], ...] = field(repr=False)
    """Lineage as `sia status` shows it."""
    lines: tuple[str, ...] = field(repr=False)
    """Lines about the sealed test, and about decisions of `rules` in place of the run's agent."""
    _record: RunRecord = field(repr=False, compare=False)

    @property
    def improved(self) -> bool:
        """True if the interval of the gain on the sealed test lies above 0."""
        return self.gain.low > 0

    def export(self, directory: str | Path) -> "Manifest":
        """Write the winner into a new directory, as `sia export` does.

        Raises:
            UsageError: the directory exists and is not empty.
            RecordError: the task's files have changed since the run.
        """
        from sia_core.domain.task import Task
        from sia_core.export.write import write_export
        from sia_core.loop.fingerprint import check_same_task

        task = Task.load(self._record.config.task)
        check_same_task(self._record, task)
        return write_export(self._record, task, Path(directory))

    def plot(self, ax: Any = None) -> Any:
        """Draw score over generations with intervals, and the sealed test; return matplotlib's axes.

        Args:
            ax: axes to draw on; new ones if None.

        Raises:
            UsageError: matplotlib is not installed.
        """
        if ax is None:
            try:
                import matplotlib.pyplot as plt  # Optional, and slow to load.
            except ImportError as error:
                raise UsageError("matplotlib is not installed", hint="pip install matplotlib") from error
            _, ax = plt.subplots(figsize=(7, 4))
        for promoted, marker, label in ((True, "o", "promoted"), (False, "x", "not promoted")):
            shown = [(step.generation, step.score) for step in self.steps if step.score and step.promoted is promoted]
            _points(ax, shown, marker, label)
        last = max(step.generation for step in self.steps) + 1
        _points(ax, [(0, self.seed_sealed), (last, self.sealed)], "s", "sealed test: seed, final")
        ax.set(xlabel="generation", ylabel="score", title=f"{self.task} ({self.run})")
        ax.set_xticks(range(last + 1), ["seed", *map(str, range(1, last)), "sealed"])
        ax.legend()
        return ax

    def __str__(self) -> str:
        table = [" | ".join(COLUMNS), *(" | ".join(row[column] for column in COLUMNS) for row in self.rows)]
        return "\n".join([f"{self.run}: task {self.task}", *table, *self.lines])

    def _repr_html_(self) -> str:
        """Format the result for notebooks, with escaped texts, some of which agents wrote."""
        head = "".join(f"<th>{html.escape(column)}</th>" for column in COLUMNS)
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(row[column])}</td>" for column in COLUMNS) + "</tr>"
            for row in self.rows
        )
        said = "<br>".join(map(html.escape, self.lines))
        title = html.escape(f"{self.run}: task {self.task}")
        return f"<p><b>{title}</b></p><table><tr>{head}</tr>{body}</table><p>{said}</p>"


def read_result(run: RunRecord) -> Result:
    """Read the result of a finished run from its record.

    Raises:
        RecordError: the run is not finished.
    """
    test = run.phase(SealedDone)
    if test is None:
        raise RecordError("has no sealed test yet", where=run.name, hint=f"finish it: sia resume {run.name}")
    nodes, config = run.nodes(), run.config
    winner = champion(nodes)
    adapter = run.adapter(winner.candidate.adapter)
    return Result(
        run=run.name,
        task=run.tags[Tag.TASK],
        steps=tuple(_step(node, nodes) for node in nodes),
        winner=winner.index,
        sealed=test.final,
        seed_sealed=test.seed,
        gain=test.gain,
        confidence=config.confidence,
        harness=dict(run.harness(winner.candidate.harness).files),
        adapter=adapter.path if adapter else None,
        rows=tuple(lineage_rows(nodes)),
        lines=(*sealed_lines(test, config.confidence), *replies_lines(run), *stand_in_lines(nodes)),
        _record=run,
    )


def _step(node: Node, nodes: list[Node]) -> Step:
    gate = node.gate
    score = gate.child if gate else None
    if node.parent is None:  # The seed's score is the parent side of its first child's gate.
        gates = [one.gate for one in nodes if one.parent == node.index and one.gate is not None]
        score = gates[0].parent if gates else None
    return Step(
        node=node.index,
        generation=node.generation,
        parent=node.parent,
        lever=node.lever,
        score=score,
        gain=gate.gain if gate else None,
        promoted=node.promoted,
        failure=node.failure,
    )


def _points(ax: Any, shown: list[tuple[int, Estimate]], marker: str, label: str) -> None:
    if not shown:
        return
    means = [score.mean for _, score in shown]
    below = [score.mean - score.low for _, score in shown]
    above = [score.high - score.mean for _, score in shown]
    ax.errorbar([at for at, _ in shown], means, yerr=[below, above], fmt=marker, capsize=3, label=label)
