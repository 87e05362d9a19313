"""Decisions of a run are made again on another seed, through the real rungs, gate and record."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sia_core.agents.protocol import FeedbackAgent, Situation
from sia_core.agents.recorded import RecordedAgent
from sia_core.agents.recording import Key, Recording, read_recording, write_recording
from sia_core.agents.registry import Agents
from sia_core.agents.source import Source
from sia_core.domain.lineage import Decision, Node
from sia_core.domain.patch import Block, Edit
from sia_core.export.decisions import recording_of
from sia_core.loop.analyze import analyze
from sia_core.loop.execute import execute
from sia_core.loop.improve import improve
from sia_core.loop.session import Session
from tests.agents.recordings import recording
from tests.loop.in_process import AGENT, open_session

HELPER = 'COLOUR = "blue"\n'
BLUE = AGENT.replace('"green"', "COLOUR").replace("async", "from helper import COLOUR\n\n\nasync", 1)
LOUDER = BLUE.replace("Say", "Say it")
RED = AGENT.replace("green", "red")


class Steered:
    """An agent with scripted decisions, by generation and sibling."""

    spec = "openai:m@http://127.0.0.1:1/v1"

    def __init__(self, *script: Decision, siblings: int = 1) -> None:
        self._script, self._siblings = script, siblings

    def decide(self, situation: Situation, source: Source) -> Decision:
        assert not situation.refused, situation.refused
        at = (situation.generation - 1) * self._siblings + len(situation.siblings)
        return replace(self._script[at], agent=self.spec)


def rewrite(parent: int, *edits: Edit, why: str = "why", **given: Any) -> Decision:
    return Decision("harness", parent, why, "", parent_reason="because", edits=edits, **given)


@contextmanager
def run(home: Path, empty_store: Path, agent: FeedbackAgent, **settings: Any) -> Iterator[Session]:
    home.mkdir()
    plan = {"levers": ("harness",), "gate_problems": 6, "agent": agent.spec, **settings}
    with open_session(home, empty_store, **plan) as session:
        made = replace(session, agents=Agents(agent, None))
        for index in range(1, made.config.generations + 1):
            execute(made, index)
            decisions = analyze(made, index)
            improve(made, index)
            if decisions[0].lever == "stop":
                break
        yield made


def player(made: Recording) -> RecordedAgent:
    return RecordedAgent("recorded:/x/d.json", made)


def by_words(session: Session) -> dict[str, Node]:
    return {node.decision.reason: node for node in session.run.nodes() if node.decision}


def write(folder: Path, session: Session) -> Path:
    file = folder / "decisions.json"
    file.write_bytes(write_recording(recording_of(session.run, session.task)))
    return file


SCRIPT = (
    rewrite(0, Edit("agent.py", BLUE), Edit("helper.py", HELPER), why="a better colour", predicted_gain=0.7),
    rewrite(1, Edit("agent.py", blocks=(Block("Say", "Say it"),)), why="the prompt"),
    rewrite(0, Edit("agent.py", RED), why="a worse colour"),
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Recording:
    """Decisions of a run on seed 0, written to a file and read again."""
    home = tmp_path_factory.mktemp("source")
    with run(home / "home", empty_store, Steered(*SCRIPT), generations=3) as session:
        seed, blue, *_ = session.run.nodes()
        assert blue.promoted
        session.run.generation(1).put_json("agent/conversation.json", {"usage": usage(3)})
        session.run.generation(2).put_json("agent/conversation.json", {"usage": usage(2)})
        file = write(home, session)
    found = read_recording(file)
    assert found.first.harness == seed.candidate.harness and found.first.files is None
    return found


def usage(turns: int) -> dict[str, Any]:
    return {"requests": turns, "prompt_tokens": 10 * turns, "output_tokens": turns, "dollars": None}


def test_file_of_a_run_holds_its_decisions_as_whole_texts(made: Recording) -> None:
    assert (made.agent, made.seed, made.generations, made.siblings) == ("a language model", 0, 3, 1)
    assert (made.used.turns, made.used.prompt_tokens, made.used.output_tokens, made.used.dollars) == (5, 50, 5, None)
    first, second, third = made.decisions
    assert first.promoted and first.predicted_gain == 0.7 and first.parent_key == Key(0, 0)
    assert second.parent_key == Key(1, 0) and [edit.text for edit in second.edits] == [LOUDER]
    assert third.failure.startswith("minibatch: futile")
    assert "127.0.0.1" not in write_recording(made).decode()


def test_decisions_make_the_same_harnesses_on_another_seed(tmp_path: Path, empty_store: Path, made: Recording) -> None:
    with run(tmp_path / "home", empty_store, player(made), generations=5, seed=1) as session:
        _seed, blue, louder, red, stopped = session.run.nodes()
        assert blue.promoted and blue.gate is not None and louder.parent == 1
        assert session.run.harness(louder.harness).files["agent.py"].decode() == LOUDER
        assert red.failure.startswith("minibatch: futile")
        assert {one.harness for one in made.decisions[:2]} == {blue.candidate.harness, louder.harness}
        assert stopped.lever == "stop" and stopped.decision is not None
        assert "the recording ends here: it holds 3 decisions" in stopped.decision.reason
        assert session.run.generation(1).tags["sia.decided_by"] == "recorded:d"
        # What was decided from a recording is a recording again.
        again = recording_of(session.run, session.task)
        assert [one.harness for one in again.decisions[:3]] == [one.harness for one in made.decisions]


def test_refused_decision_gives_no_candidate_and_the_next_one_is_made(
    tmp_path: Path, empty_store: Path, made: Recording
) -> None:
    entries = [one.model_dump(mode="json") for one in made.decisions]
    entries[0]["edits"][0]["text"] = "async def solve(problem, ctx)\n"
    played = recording(*entries, first=made.first.model_dump())
    with run(tmp_path / "home", empty_store, player(played), generations=2, seed=1) as session:
        _, refused, after = session.run.nodes()
        assert (refused.lever, refused.gate, refused.candidate) == ("none", None, session.run.nodes()[0].candidate)
        assert refused.failure.startswith("harness: static: agent.py:1: expected ':'")
        assert session.run.generation(1).tags["sia.decided_by"] == "recorded:d"
        # The next one branches from it all the same, and leads to the harness that was recorded.
        assert after.lever == "harness" and after.parent == 1
        files = session.run.harness(after.harness).files
        assert files["agent.py"].decode() == LOUDER and files["helper.py"].decode() == HELPER


@pytest.mark.slow
def test_siblings_are_distinguished_in_any_order_of_joining(tmp_path: Path, empty_store: Path) -> None:
    """The better sibling was decided first, and joins the lineage last."""
    better, worse = SCRIPT[0], rewrite(0, Edit("agent.py", AGENT.replace("Say", "Tell")), why="other words")
    # Node 2 is the better sibling.
    after = rewrite(2, Edit("agent.py", LOUDER), why="on top")
    more = rewrite(0, Edit("agent.py", AGENT.replace("Say", "Name")), why="yet others")
    steered = Steered(better, worse, after, more, siblings=2)
    with run(tmp_path / "one", empty_store, steered, generations=2, siblings=2) as session:
        assert by_words(session)["a better colour"].index == 2
        made = recording_of(session.run, session.task)
        wanted = {words: node.harness for words, node in by_words(session).items()}
    assert [(one.key, one.parent_key) for one in made.decisions] == [
        (Key(1, 0), Key(0, 0)),
        (Key(1, 1), Key(0, 0)),
        (Key(2, 0), Key(1, 0)),
        (Key(2, 1), Key(0, 0)),
    ]
    with run(tmp_path / "two", empty_store, player(made), generations=2, siblings=2, seed=3) as session:
        found = by_words(session)
        assert {words: node.harness for words, node in found.items()} == wanted
        assert found["on top"].parent == found["a better colour"].index


def test_siblings_that_are_all_refused_end_the_generation_and_not_the_run(
    tmp_path: Path, empty_store: Path, made: Recording
) -> None:
    same = [{"file": "agent.py", "text": AGENT}]
    entries = [
        {**one.model_dump(mode="json"), "generation": 1, "sibling": number, "edits": same, "parent": {"generation": 0}}
        for number, one in enumerate(made.decisions[:2])
    ]
    played = recording(*entries, first=made.first.model_dump())
    settings = {"generations": 1, "siblings": 2, "seed": 1, "meta": True}
    with run(tmp_path / "home", empty_store, player(played), **settings) as session:
        seed, *nodes = session.run.nodes()
        assert [node.lever for node in nodes] == ["none", "none"]
        assert all("the rewrite changes nothing" in node.failure for node in nodes)
        # A first harness that was written for the run is in the file, and makes the digest that is named.
        first = read_recording(write(tmp_path, session)).first
        assert first.harness == seed.candidate.harness and first.files is not None
        assert first.files["agent.py"] == AGENT


def test_resumed_generation_makes_the_same_decision(tmp_path: Path, empty_store: Path, made: Recording) -> None:
    (tmp_path / "home").mkdir()
    with open_session(tmp_path / "home", empty_store, levers=("harness",), seed=1, gate_problems=6) as session:
        cut = replace(session, agents=Agents(player(made), None))
        first = analyze(cut, 1)
        cut.run.record.client.delete_tag(cut.run.generation(1).run_id, "sia.phase.analyze")
        assert analyze(cut, 1) == first
        assert improve(cut, 1)[0].promoted
