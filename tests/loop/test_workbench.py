"""Drafts before a decision: failures of cheap rungs go back to the agent, and rollouts are counted and readable."""

import json
from dataclasses import asdict
from typing import Any, cast

import pytest

from sia_core.agents.evidence import gather
from sia_core.agents.library import Library, ReadingError
from sia_core.agents.protocol import Situation
from sia_core.agents.source import Source
from sia_core.agents.trial import describe_trial
from sia_core.domain.lineage import Decision
from sia_core.domain.patch import Block, Edit, apply_edits
from sia_core.loop import decide as decide_module
from sia_core.loop.run_view import SessionSource
from sia_core.loop.session import Session
from tests.loop.in_process import PARENT, InProcess


def change(old: str, new: str) -> Edit:
    return Edit("agent.py", blocks=(Block(old, new),))


def decide(*edits: Edit, **given: Any) -> Decision:
    return Decision("harness", 0, "why", "openai:m", edits=edits, **given)


MISSING_COLON = change("async def solve(problem, ctx):", "async def solve(problem, ctx)")
FAILING = change("    return", "    raise ValueError('boom')\n    return")
BETTER = change("green", "blue")


@pytest.fixture
def source(session: Session) -> SessionSource:
    return SessionSource(session, 1)


def test_syntax_error_goes_back_without_a_rollout(session: Session, source: SessionSource) -> None:
    engine = cast("InProcess", session.engine)
    before = len(engine.played)
    (fault,) = source.validate(decide(MISSING_COLON))
    assert fault.startswith("static: agent.py:1: expected ':'")
    assert len(engine.played) == before


def test_all_faults_of_a_rung_go_back_at_once(source: SessionSource) -> None:
    two = change("async", "import torch\nimport keras\nasync")
    faults = " ".join(source.validate(decide(two)))
    assert "imports torch" in faults and "imports keras" in faults


def test_rewrite_that_fails_its_smoke_rollouts_goes_back_and_can_be_read(source: SessionSource) -> None:
    (fault, *_) = source.validate(decide(FAILING, hypothesis="louder"))
    assert fault.startswith(("contract: ", "smoke: "))
    library = Library(source, 1)
    draft = source.drafts()[-1]
    assert (draft.failure, draft.hypothesis) == (fault, "louder")
    assert "raise ValueError" in library.file(draft.name, "agent.py", 0)
    assert "+    raise ValueError" in library.diff(0, draft.name, 0)
    assert draft.name in library.rejected(0)


def test_trial_compares_with_the_parent_on_its_own_seeds(session: Session, source: SessionSource) -> None:
    engine = cast("InProcess", session.engine)
    before = len(engine.played)
    problems = sorted({rollout.unit.problem for rollout in source.rollouts(1)})[:3]
    trial = source.play(apply_edits(PARENT, [BETTER]), 0, problems, 2)
    assert len(engine.played) - before == 6, "the parent's rollouts are those of the execute phase"
    assert {rollout.unit.seed for rollout in trial.rollouts} == {rollout.unit.seed for rollout in trial.compared}
    assert source.left().rollouts == session.config.agent_rollouts - 6
    told = describe_trial(trial)
    assert "6 rollouts on 3 problems" in told and "better on 3, worse on 0 of 3 problems" in told
    library = Library(source, 1)
    asked: dict[str, Any] = {"problem": None, "failure": None, "least": None, "most": None, "order": "worst"}
    name = f"draft {trial.harness[:12]}"
    assert "rows 1 to 6 of 6" in library.rollouts(None, tried=name, offset=0, **asked)
    assert library.find(trial.rollouts[0].unit.key[:10]) == trial.rollouts[0]
    assert "blue" in library.search("blue", None, 0, name)


def test_trial_beyond_the_allowance_is_refused_with_a_message(session: Session, source: SessionSource) -> None:
    engine = cast("InProcess", session.engine)
    before = len(engine.played)
    trial = source.play(apply_edits(PARENT, [BETTER]), 0, ["train-0"], session.config.agent_rollouts + 1)
    assert not trial.rollouts and "name fewer problems" in trial.faults[0]
    assert len(engine.played) == before


def test_trials_and_rungs_are_counted_once(session: Session, source: SessionSource) -> None:
    problems = sorted({rollout.unit.problem for rollout in source.rollouts(1)})[:2]
    child = apply_edits(PARENT, [change("green", "red")])
    source.play(child, 0, problems, 1)
    source.play(child, 0, problems, 1)
    assert source.workbench.finish().rollouts == 2
    stored = session.run.generation(1)
    drafts = json.loads(stored.get_bytes("drafts.json") or b"")["drafts"]
    assert drafts == [asdict(draft) for draft in source.workbench.drafts.values()]
    assert len(stored.rollouts(f"draft_{child.digest}")) == 2


def test_unknown_draft_is_answered_with_the_known_ones(source: SessionSource) -> None:
    with pytest.raises(ReadingError, match="0 drafts are named 'draft 000000'; there are nodes 0 to 0"):
        Library(source, 1).file("draft 000000", "agent.py", 0)


class Clumsy:
    """An agent that makes every mistake once, then a good decision."""

    spec = "openai:clumsy"

    def __init__(self) -> None:
        self.refused: list[tuple[str, ...]] = []
        self._todo = [
            decide(change("not there", "x"), change("nor there", "y")),
            decide(MISSING_COLON),
            decide(change("async", "x = 1 / 0\nasync")),
            decide(change("async", "# a remark\nasync")),
            decide(BETTER),
        ]

    def decide(self, situation: Situation, source: Source) -> Decision:
        self.refused.append(situation.refused)
        return self._todo.pop(0)


def test_agent_that_makes_every_mistake_once_still_decides_in_its_generation(session: Session) -> None:
    agent = Clumsy()
    source = SessionSource(session, 1)
    stored, nodes = session.run.generation(1), session.run.nodes()
    evidence = gather(nodes[0].candidate, stored.rollouts("train"), confidence=0.9, seed=0)
    situation = cast("Any", decide_module)._situation(session, stored, nodes, evidence)
    decision = cast("Any", decide_module)._ask(agent, situation, source)
    assert decision.edits == (BETTER,)
    *_, told = agent.refused
    assert [reason.split(": ")[1] for reason in told] == ["edits", "static", "import", "static"]
    assert "2 faults" in told[0]
