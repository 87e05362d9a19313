"""Test the decisions of `rules` and of the gate in whole runs.

Rollouts are drawn, the ladder lets every child pass and training is a switch. All else is the real flow, on a real
record.
"""

import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from sia_core.agents.protocol import NoDecisionError, Situation
from sia_core.agents.registry import Agents
from sia_core.agents.rules import RulesAgent
from sia_core.agents.source import Source
from sia_core.domain.candidate import Adapter, Candidate
from sia_core.domain.config import RunConfig
from sia_core.domain.errors import SiaError
from sia_core.domain.harness import Harness, KnobValue
from sia_core.domain.lineage import Cost, Decision, LadderReport, Node, RungResult
from sia_core.domain.rollout import Failure, Rollout, Unit, Verdict
from sia_core.domain.task import Task
from sia_core.host.progress import Silent
from sia_core.loop import harness_lever, levers, stopping, workbench
from sia_core.loop.analyze import analyze
from sia_core.loop.create_run import plant_seed
from sia_core.loop.execute import execute
from sia_core.loop.harness_lever import Pulled
from sia_core.loop.improve import improve
from sia_core.loop.ladder import Climb
from sia_core.loop.sealed_test import seal
from sia_core.loop.session import Session
from sia_core.loop.spending import Ledger
from sia_core.record.journal import Journal
from sia_core.record.phases import ExecuteDone, SealedDone, StopDone
from sia_core.record.rewind import forget
from sia_core.record.store import RunRecord, open_record
from tests.factories import TOY, make_rollout
from tests.toy.task import CANARY

Score = Callable[[Mapping[str, KnobValue], bool, random.Random], float | str]
"""Knobs, whether trained, randomness of the rollout -> a score or the kind of its failure."""


class World:
    """A stand-in for the engine whose rollouts have the outcomes that a test sets."""

    policy = SimpleNamespace(trainable=True, digest="policy")

    def __init__(self, score: Score) -> None:
        self.score = score

    def run(self, units: Iterable[Unit], harness: Harness, adapter: Adapter | None) -> Iterator[Rollout]:
        for unit in units:
            found = self.score(harness.knobs, adapter is not None, random.Random(unit.key))
            made = replace(make_rollout(), unit=unit)
            if isinstance(found, str):
                yield replace(made, verdict=None, failure=Failure(found, "because"))
            else:
                yield replace(made, verdict=Verdict(found))


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ladder that accepts every child, and a trainer whose adapter is a name."""

    def climb(it: Climb, _rungs: Sequence[str] = ()) -> LadderReport:
        it.session.run.put_harness(it.child)
        return LadderReport(it.child.digest, (RungResult("minibatch", True, "left to the gate"),))

    def train(_session: Session, generation: Any, _decision: Any, parent: Node, _first: Any) -> Pulled:
        return Pulled(Candidate(parent.candidate.harness, f"adapter{generation.index}"), Cost())

    monkeypatch.setattr(harness_lever, "climb", climb)
    monkeypatch.setattr(workbench, "climb_rungs", climb)
    monkeypatch.setattr(levers, "pull_weights", train)
    monkeypatch.setattr(RunRecord, "adapter", lambda _, digest: Adapter(digest, Path()) if digest else None)
    monkeypatch.setattr(RunRecord, "promote", lambda *_: None)


@contextmanager
def running(home: Path, knobs: str, score: Score, **settings: Any) -> Iterator[Session]:
    task = Task.load(TOY)
    plan = {"problems": 4, "rollouts": 4, "gate_problems": 12, "gate_rollouts": 4, "test_problems": 6}
    config = RunConfig(task=TOY, policy="scripted", test_rollouts=2, **{"generations": 1, **plan, **settings})
    run = open_record(home, None).create(config, {"sia.task": "toy", "sia.task_digest": task.digest})
    plant_seed(run, Harness.from_files({"harness.toml": f'name = "h"\n{knobs}'.encode(), "agent.py": b"X = 1\n"}))
    agents = Agents(RulesAgent(), None)
    with Journal(home / "journal.db") as journal:
        ledger = Ledger(run, journal, task.config.resources, None, Silent())
        yield Session(home, run, config, task, cast("Any", World(score)), journal, agents, Silent(), ledger)


def play(session: Session) -> list[Node]:
    """All generations, then the sealed test."""

    def generation(index: int) -> bool:
        execute(session, index)
        decisions = analyze(session, index)
        improve(session, index)
        return decisions[0].lever == "stop"

    stopping.run_generations(session, generation)
    seal(session)
    return session.run.nodes()


def knob(*names: str) -> str:
    return "".join(f'[knobs.{name}]\nvalue = "a"\noptions = ["a", "b"]\n' for name in names)


def pulls(nodes: list[Node]) -> list[str]:
    return [node.lever for node in nodes]


def stopped(session: Session) -> StopDone:
    stop = session.run.phase(StopDone)
    assert stop is not None
    return stop


def test_format_bug_leads_to_the_harness_lever(world: None, store_home: Path) -> None:
    def score(knobs: Mapping[str, KnobValue], trained: bool, rng: random.Random) -> float | str:
        return "output" if knobs["format"] == "a" and rng.random() < 0.6 else rng.uniform(0.4, 0.6)

    with running(store_home, knob("format"), score) as session:
        nodes = play(session)
        assert pulls(nodes) == ["seed", "harness"]
        assert nodes[1].promoted and nodes[1].decision is not None and "output" in nodes[1].decision.reason
        gate = nodes[1].gate
        # Four problems cannot prove anything yet, eight can: the last third of the block is not paid for.
        assert gate is not None and gate.looks == 2 and gate.most_looks == 3
        assert len(session.run.generation(1).rollouts("gate_child")) == 8 * 4
        assert nodes[1].cost.rollouts == 4 * 4 + 2 * 8 * 4
        assert stopped(session).rule == "generations"
        assert "gate.looks" in session.run.record.client.get_run(session.run.generation(1).run_id).data.metrics


def test_good_harness_with_mixed_groups_leads_to_the_weight_lever(world: None, store_home: Path) -> None:
    def score(knobs: Mapping[str, KnobValue], trained: bool, rng: random.Random) -> float:
        return float(rng.random() < (0.8 if trained else 0.3))

    with running(store_home, "", score) as session:
        nodes = play(session)
    assert pulls(nodes) == ["seed", "weights"]
    assert nodes[1].promoted and nodes[1].candidate.adapter == "adapter1"


def test_constant_groups_are_never_trained_on(world: None, store_home: Path) -> None:
    with running(store_home, knob("menu"), lambda *_: 0.4, generations=4) as session:
        nodes = play(session)
        assert pulls(nodes) == ["seed", "harness", "stop"]
        assert not nodes[1].promoted and nodes[1].gate is not None and nodes[1].gate.outcome == "futile"
        assert stopped(session).rule == "agent"
        assert session.run.tags["sia.stopped"] == "agent"


def worse(knobs: Mapping[str, KnobValue], trained: bool, rng: random.Random) -> float:
    """Every knob and the training do harm. A change without effect would be promoted in a tenth of the trials."""
    return 0.6 - 0.2 * sum(value == "b" for value in knobs.values()) - 0.1 * trained + rng.uniform(0, 0.02)


def test_agent_receives_the_terms_of_the_gate(world: None, store_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Situation] = []
    decide = RulesAgent.decide

    def watched(self: RulesAgent, situation: Situation, source: Any) -> Decision:
        told.append(situation)
        return decide(self, situation, source)

    monkeypatch.setattr(RulesAgent, "decide", watched)
    with running(store_home, knob("tries"), worse, generations=2) as session:
        play(session)
    first, second = (situation.gate for situation in told[:2])
    assert first is not None and second is not None
    config = session.config
    assert (first.problems, first.rollouts, first.gain_per_token_doubling) == (
        config.gate_problems,
        config.gate_rollouts,
        config.gain_per_token_doubling,
    )
    assert first.level == pytest.approx(told[0].evidence.score.mean)
    assert first.detectable is not None and 0 < first.detectable < 1
    # From the second generation on the spread is that of the gate that was played.
    assert second.detectable is not None and second.detectable != first.detectable


def test_regression_is_rolled_back_and_remembered_and_a_plateau_switches_levers(world: None, store_home: Path) -> None:
    with running(store_home, knob("one", "two", "three"), worse, generations=4) as session:
        nodes = play(session)
        first, second, third = nodes[1:4]
        assert pulls(nodes)[1:4] == ["harness", "harness", "weights"]
        for node in (first, second):
            assert node.gate is not None and node.gate.outcome == "futile" and node.gate.looks == 1
        tried = [dict(node.decision.knobs) for node in nodes if node.lever == "harness" and node.decision]
        assert tried[:2] == [{"one": "b"}, {"two": "b"}]
        assert third.decision is not None and "lever harness is on a plateau" in third.decision.reason
        # Rolled back: each generation executes the seed, and the final candidate is the seed.
        executed = [generation.phase(ExecuteDone) for generation in session.run.generations()]
        assert {phase.node for phase in executed if phase} == {0}
        test = session.run.phase(SealedDone)
        assert test is not None and test.node == 0


def test_plateau_ends_the_run_with_its_numbers(world: None, store_home: Path) -> None:
    with running(store_home, knob("one", "two", "three"), worse, generations=9, until_plateau=True) as session:
        nodes = play(session)
        stop = stopped(session)
        assert stop.rule == "plateau" and pulls(nodes) == ["seed", "harness", "harness", "weights"]
        assert stop.plateau["tries"] == 3 and stop.plateau["upper"] < stop.plateau["threshold"]
        assert "3 tries since the last promotion" in stop.reason
        metrics = session.run.record.client.get_run(session.run.run_id).data.metrics
        assert metrics["plateau.upper"] == pytest.approx(stop.plateau["upper"])


def test_menu_that_helps_only_with_training_leads_to_both_levers(world: None, store_home: Path) -> None:
    def score(knobs: Mapping[str, KnobValue], trained: bool, rng: random.Random) -> float:
        wide = knobs["menu"] == "b"
        return (0.9 if trained else 0.2) + rng.uniform(0, 0.1) if wide else 0.3 + rng.uniform(0, 0.1)

    with running(store_home, knob("menu"), score, generations=3) as session:
        nodes = play(session)
    assert pulls(nodes) == ["seed", "harness", "weights", "both"]
    assert nodes[3].promoted and nodes[3].decision is not None and nodes[3].decision.knobs == {"menu": "b"}


def test_lost_rollouts_void_the_gate_and_are_no_verdict(world: None, store_home: Path) -> None:
    def score(knobs: Mapping[str, KnobValue], trained: bool, rng: random.Random) -> float | str:
        return "worker" if knobs["menu"] == "b" and rng.random() < 0.5 else rng.uniform(0.1, 0.2)

    with running(store_home, knob("menu"), score, levers=("harness",)) as session:
        node = play(session)[1]
    assert node.gate is not None and node.gate.void and node.gate.looks == 3 and not node.promoted


class Undecided:
    """Reaches no decision in some generations, and moves the first knob in the others."""

    spec = "openai:m@http://host/v1"

    def __init__(self, *silent: int, words: str = "") -> None:
        self.silent, self.words = silent, words

    def decide(self, situation: Situation, source: Source) -> Decision:
        if situation.generation in self.silent:
            raise NoDecisionError(f"no decision in 30 turns{self.words}")
        made = RulesAgent().decide(situation, source)
        return replace(made, agent=self.spec, hypothesis=f"richer is better{self.words}")


class Sayings(Silent):
    """Keeps every message."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def test_rules_deciding_for_an_agent_are_recorded_counted_and_logged(world: None, store_home: Path) -> None:
    heard = Sayings()
    names = knob("one", "two", "three")
    with running(store_home, names, worse, generations=2) as opened:
        session = replace(opened, agents=Agents(Undecided(2), None), reporter=heard)
        _, own, other = play(session)
        tags = session.run.tags
        decided_by = [generation.tags["sia.decided_by"] for generation in session.run.generations()]
        assert own.decision is not None and other.decision is not None
        assert (own.decision.agent, own.decision.instead_of) == (Undecided.spec, "")
        assert (other.decision.agent, other.decision.instead_of) == ("rules", Undecided.spec)
        assert other.decision.refused == (f"{Undecided.spec}: no decision in 30 turns",)
        assert decided_by == [Undecided.spec, "rules"] and tags["sia.stand_ins"] == "1"
        told = r"generation 1: decided by openai:m: harness \(knob one\): richer is better; predicted \S+; cites 12 \w+"
        assert re.fullmatch(told, heard.said[0])
        at = heard.said.index("rules decided in place of openai:m in generation 2: no decision in 30 turns")
        assert heard.said[at + 1].startswith("generation 2: decided by rules: ")
        forget(session.run, 2)
        assert session.run.tags["sia.stand_ins"] == "0"


@pytest.mark.parametrize("silent", [(), (1,)])
def test_canary_in_a_decision_is_not_printed(world: None, store_home: Path, silent: tuple[int, ...]) -> None:
    heard = Sayings()
    agents = Agents(Undecided(*silent, words=f" {CANARY}"), None)
    with running(store_home, knob("one"), worse) as session, pytest.raises(SiaError, match="canary"):
        play(replace(session, agents=agents, reporter=heard))
    assert CANARY not in "".join(heard.said)


def test_puct_executes_another_node_and_its_child_has_to_beat_the_champion(world: None, store_home: Path) -> None:
    def score(knobs: Mapping[str, KnobValue], trained: bool, rng: random.Random) -> float:
        return 0.2 + 0.1 * sum(value == "b" for value in knobs.values()) + rng.uniform(0, 0.02)

    with running(store_home, knob("one", "two"), score, generations=4, parent="puct", levers=("harness",)) as session:
        nodes = play(session)
        executed = [phase.node for one in session.run.generations() if (phase := one.phase(ExecuteDone))]
    assert len(set(executed)) > 1
    leader = 0
    for node in nodes[1:]:
        assert node.parent is not None
        if node.gate is not None and node.parent != leader and node.gate.gain.bound > 0:
            # Better than its parent, which is not the champion: it was compared with the champion too.
            assert node.gate.against is not None
        leader = node.index if node.promoted else leader
    best = {
        len([value for value in session.run.harness(nodes[leader].candidate.harness).knobs.values() if value == "b"])
    }
    assert best == {2}


def test_sealed_test_is_scored_once_on_its_own_seeds(world: None, store_home: Path) -> None:
    played: list[Unit] = []

    def score(knobs: Mapping[str, KnobValue], trained: bool, rng: random.Random) -> float:
        return 0.3 + 0.3 * (knobs["menu"] == "b") + rng.uniform(0, 0.1)

    with running(store_home, knob("menu"), score) as session:
        engine = cast("World", session.engine)
        run = engine.run

        def watched(units: Iterable[Unit], harness: Harness, adapter: Adapter | None) -> Iterator[Rollout]:
            asked = list(units)
            played.extend(asked)
            return run(asked, harness, adapter)

        engine.run = watched  # type: ignore[method-assign]
        nodes = play(session)
        before = len(played)
        seal(session)
        assert len(played) == before, "a second sealing plays nothing"
        test = session.run.phase(SealedDone)
    sealed = [unit for unit in played if unit.split == "test"]
    assert len(sealed) == len({unit.key for unit in sealed}) == 2 * 6 * 2
    assert not {unit.seed for unit in sealed} & {unit.seed for unit in played if unit.split != "test"}
    assert not {unit.problem for unit in sealed} & {unit.problem for unit in played if unit.split != "test"}
    assert test is not None and nodes[1].gate is not None
    assert test.final.mean != nodes[1].gate.child.mean
    assert test.gain.low > 0
