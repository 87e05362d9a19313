"""Generations made again, added, or made in a child run: whole runs on a real record, with drawn rollouts."""

import random
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import pytest

from sia_core.domain.candidate import Adapter
from sia_core.domain.errors import UsageError
from sia_core.domain.harness import Harness, KnobValue
from sia_core.domain.rollout import Rollout, Unit
from sia_core.host.progress import Silent
from sia_core.loop.session import Session
from sia_core.loop.spending import Ledger
from sia_core.record.journal import Journal
from sia_core.record.phases import ImproveDone, Phase, SealedDone, StopDone
from sia_core.record.rewind import forget, forgotten, fork, is_whole, refill
from sia_core.record.store import RunRecord
from tests.loop.test_decisions import World, knob, play, running, world

__all__ = ["world"]  # A fixture.


@pytest.fixture
def homes(tmp_path: Path, empty_store: Path) -> Callable[[str], Path]:
    """Makes a home with a store of its own."""

    def make(name: str) -> Path:
        (tmp_path / name).mkdir()
        shutil.copy(empty_store, tmp_path / name)
        return tmp_path / name

    return make


Homes = Callable[[str], Path]


class Counted(World):
    """A world that knows how many rollouts it was asked for."""

    def __init__(self) -> None:
        super().__init__(_score)
        self.count = 0

    def run(self, units: Iterable[Unit], harness: Harness, adapter: Adapter | None) -> Iterator[Rollout]:
        for rollout in super().run(units, harness, adapter):
            self.count += 1
            yield rollout


def _score(knobs: Mapping[str, KnobValue], _trained: bool, draw: random.Random) -> float:
    good = sum(value == "b" for value in knobs.values())
    return min(1.0, 0.2 + 0.3 * good + 0.1 * draw.random())


@contextmanager
def opened(home: Path, **settings: Any) -> Iterator[tuple[Session, Counted]]:
    counted = Counted()
    small = {"problems": 2, "rollouts": 2, "gate_problems": 6, "gate_rollouts": 2, "test_problems": 4}
    with running(home, knob("menu", "style"), _score, levers=("harness",), **small, **settings) as session:
        yield replace(session, engine=cast("Any", counted)), counted


def anew(session: Session, run: RunRecord) -> Session:
    """The session as another process opens it."""
    found = session.run.record.open(run.name)
    return replace(session, run=found, config=found.config)


def told(run: RunRecord) -> dict[str, Any]:
    """Candidates, scores and decisions."""
    nodes = [asdict(node) for node in run.nodes()]
    return {"nodes": nodes, "test": _stored(run, SealedDone), "stop": _stored(run, StopDone)}


def _stored(run: RunRecord, kind: type[Phase]) -> Any:
    """A phase as it is stored."""
    done = run.phase(kind)
    return None if done is None else done.model_dump(mode="json")


@pytest.mark.usefixtures("world")
def test_rerun_generation_ends_as_before_and_costs_nothing(homes: Homes) -> None:
    with opened(homes("home"), generations=3) as (session, counted):
        play(session)
        before, played = told(session.run), counted.count
        assert any(node["promoted"] and node["parent"] is not None for node in before["nodes"])
        kept = {generation.index: generation.run_id for generation in session.run.generations()}

        assert forget(session.run, 2, by="me") == [2, 3]
        assert [node.generation for node in session.run.nodes()] == [0, 1]
        assert session.run.phase(SealedDone) is None and session.run.phase(StopDone) is None
        assert session.run.tags["sia.generations_done"] == "1"

        again = anew(session, session.run)
        play(again)
        assert told(again.run) == before
        assert counted.count == played, "finished rollouts were run again"
        assert forget(again.run, 2, by="me") == [], "one that asks twice"

        # Nothing is lost of what was decided the first time.
        old = {generation.index: generation for generation in forgotten(again.run)}
        assert {index: generation.run_id for index, generation in old.items()} == {2: kept[2], 3: kept[3]}
        assert old[2].phase(ImproveDone) is not None and old[2].rollouts("train")
        assert again.run.get_json("forgotten/1/phases/test.json") == before["test"]


@pytest.mark.usefixtures("world")
def test_finished_phases_cost_nothing_on_another_machine(homes: Homes) -> None:
    with (
        opened(homes("home"), generations=2) as (session, counted),
        Journal(homes("elsewhere") / "journal.db") as journal,
    ):
        play(session)
        before, played = told(session.run), counted.count
        assert 0 < refill(session.run, journal) < played
        forget(session.run, 1)
        moved = replace(anew(session, session.run), journal=journal, ledger=_ledger(session, journal))
        play(moved)
        assert told(moved.run) == before
        test = session.config.test_problems * session.config.test_rollouts
        assert counted.count - played <= 2 * test, "only the sealed test's are not in the record"
        assert refill(moved.run, journal) == 0, "twice is once"


def _ledger(session: Session, journal: Journal) -> Ledger:
    return Ledger(session.run, journal, session.task.config.resources, None, Silent())


@pytest.mark.usefixtures("world")
def test_extended_run_ends_as_a_run_of_that_length(homes: Homes) -> None:
    with opened(homes("long"), generations=3) as (session, _):
        play(session)
        expected = told(session.run)
    with opened(homes("short"), generations=1) as (session, _):
        play(session)
        forget(session.run, 3)
        session.run.extend(3)
        longer = anew(session, session.run)
        play(longer)
        assert told(longer.run) == expected
        (summary,) = longer.run.record.summaries()
        assert summary.generations == "3/3"


@pytest.mark.usefixtures("world")
def test_child_run_continues_the_lineage_of_its_parent_unchanged(homes: Homes) -> None:
    with opened(homes("home"), generations=3) as (session, counted):
        play(session)
        before, played = told(session.run), counted.count

        made = fork(session.run, 2, session.config, {"sia.task": "toy", "sia.task_digest": session.task.digest})
        assert is_whole(made) and made.tags["mlflow.parentRunId"] == session.run.run_id
        assert [asdict(node) for node in made.nodes()] == before["nodes"][:2]
        child = anew(session, made)
        play(child)
        assert told(child.run) == before
        assert counted.count == played
        assert told(session.run) == before
        assert len(session.run.generations()) == 3, "the child is no generation"
        assert {run.name for run in session.run.record.summaries()} == {session.run.name, made.name}
        copied = made.generations()[0]
        assert copied.rollouts("train") == session.run.generations()[0].rollouts("train")
        assert copied.tags["sia.copied_from"] == session.run.generations()[0].run_id


@pytest.mark.usefixtures("world")
def test_missing_generation_cannot_be_rerun(homes: Homes, monkeypatch: pytest.MonkeyPatch) -> None:
    from sia_core.loop import rerun

    with opened(homes("home"), generations=3) as (session, _):
        monkeypatch.setattr(rerun, "record", lambda: session.run.record)
        with pytest.raises(UsageError, match="generation 2 is still to come: 0 of 3"):
            rerun.rerun(session.run.name, 2)
        with pytest.raises(UsageError, match="already has 3 generations"):
            rerun.extend(session.run, 3)
        with pytest.raises(UsageError, match="has no generation 4 to continue from"):
            rerun.rerun(session.run.name, 5, forked=True)
        with pytest.raises(UsageError, match="a run keeps its settings"):
            rerun.rerun(session.run.name, 1, changes={"siblings": "2"})
        forget(session.run, 1, by="me")
        rerun.rerun(session.run.name, 2, origin="me")  # A retry, after what it had forgotten is not made again yet.
        session.run.generation(1)
        session.run.complete(StopDone(rule="agent", reason="enough", plateau={}))
        with pytest.raises(UsageError, match="the agent ended the run in generation 1"):
            rerun.extend(session.run, 4)
