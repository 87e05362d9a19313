"""Read the current state of a run from the record alone, from any terminal or machine."""

import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sia_core.domain.budget import Budget
from sia_core.domain.config import RunConfig
from sia_core.domain.lineage import Node
from sia_core.record.beacon import SILENCE, Progress, read_progress
from sia_core.record.phases import ImproveDone, SealedDone, StartDone, StopDone
from sia_core.record.store import RunRecord
from sia_core.record.tags import Tag

PATIENCE = 10
"""Consecutive looks that may fail before the watcher gives up."""
PHASES = ("execute", "analyze", "improve")


@dataclass(frozen=True)
class Pulse:
    """State of a run at one look."""

    name: str
    status: str
    """Status in MLflow: RUNNING, FINISHED, FAILED or KILLED."""
    config: RunConfig
    nodes: tuple[Node, ...]
    generation: int
    """Index of the current or last generation."""
    phase: str
    """Current phase of the run."""
    progress: Progress | None
    silent_s: float | None
    """Seconds since the driver's last update; None if there was none."""
    spending: Mapping[str, Any] | None
    budget: Budget
    stop: StopDone | None
    test: SealedDone | None

    @property
    def ended(self) -> bool:
        """True if the run's status in MLflow is not RUNNING."""
        return self.status != "RUNNING"

    @property
    def lost(self) -> bool:
        """True if the status is RUNNING but the driver's last update is older than SILENCE seconds."""
        return not self.ended and self.silent_s is not None and self.silent_s > SILENCE


class Watcher:
    """Look at a run repeatedly; completed generations never change and are read once."""

    def __init__(self, run: RunRecord) -> None:
        self._run = run
        self._config = run.config
        self._nodes: dict[int, list[Node]] = {}

    def look(self) -> Pulse:
        """Read the current state of the run."""
        run, tags = self._run, self._run.tags
        status = run.status
        generation, phase = self._read_generations()
        stop, test = run.phase(StopDone), run.phase(SealedDone)
        if status == "RUNNING" and stop is not None:
            phase = "sealed test" if test is None else "report"
        progress = read_progress(tags)
        return Pulse(
            name=run.name,
            status=status,
            config=self._config,
            nodes=tuple(node for index in sorted(self._nodes) for node in self._nodes[index]),
            generation=generation,
            phase=phase,
            progress=progress,
            silent_s=None if progress is None else max(time.time() - progress.at, 0.0),
            spending=run.get_json("spending.json"),
            budget=run.config.budget,
            stop=stop,
            test=test,
        )

    def look_again(self, after_s: float) -> Pulse:
        """Look again after a while, and retry while the record is being written or the server is away."""
        for _ in range(PATIENCE):
            time.sleep(after_s)
            with contextlib.suppress(Exception):
                return self.look()
        return self.look()

    def _read_generations(self) -> tuple[int, str]:
        """Return the last generation that has begun and its phase; keep the nodes of completed ones."""
        if 0 not in self._nodes and (start := self._run.phase(StartDone)) is not None:
            self._nodes[0] = [start.node]
        if 0 not in self._nodes:
            return 0, "first harness"
        last, phase = 0, "starting"
        for stored in self._run.generations():
            if stored.index not in self._nodes and (improve := stored.phase(ImproveDone)) is not None:
                self._nodes[stored.index] = list(improve.nodes)
            last = stored.index
            if stored.index in self._nodes:
                phase = "complete"
            else:
                done = stored.tags
                phase = next((name for name in PHASES if f"{Tag.PHASE}.{name}" not in done), "complete")
        return last, phase
