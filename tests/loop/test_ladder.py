"""The whole ladder without Ray: for each rung a rewrite that fails exactly there, and the record the agent gets."""

import json
from dataclasses import replace
from typing import Any, cast

import pytest

from sia_core.domain.errors import LeakError
from sia_core.domain.json_data import read
from sia_core.domain.lineage import Decision, LadderReport
from sia_core.domain.patch import Block, Edit, apply_edits
from sia_core.loop import ladder
from sia_core.loop.harness_lever import rewrite
from sia_core.loop.ladder import Climb, climb, climb_first
from sia_core.loop.levers import objections
from sia_core.loop.session import Session
from tests.loop.in_process import PARENT, InProcess

ORDER = list(ladder.RUNGS)


def put(session: Session, *edits: Edit, **knobs: Any) -> LadderReport:
    node = session.run.nodes()[0]
    decision = Decision("harness", 0, "why", "rules", edits=edits, knobs=knobs)
    child = apply_edits(PARENT, edits).with_knobs(knobs)
    return climb(Climb(session, session.run.generation(1), decision, node, child))


def change(old: str, new: str) -> Edit:
    return Edit("agent.py", blocks=(Block(old, new),))


def test_run_may_limit_the_size_of_a_rewrite(session: Session) -> None:
    node = session.run.nodes()[0]
    bounded = replace(session, config=session.config.model_copy(update={"edit_scope": "prompts"}))
    decision = Decision("harness", 0, "why", "openai:m", edits=(Edit("skill.md", text="Look first."),))
    assert rewrite(bounded, decision, node).files["skill.md"] == b"Look first."
    assert objections(bounded, decision, node, []) == []
    moved = replace(decision, edits=(), knobs={"n": 2})
    assert "harness.toml: is outside this run's edit scope" in " ".join(objections(bounded, moved, node, []))
    assert objections(session, moved, node, []) == []


FAILING = {
    "static": (change("async", "import torch\nasync"), "agent.py:1: imports torch, which is not"),
    "import": (change("async", "x = 1 / 0\nasync"), "agent.py:1: ZeroDivisionError: division by zero"),
    "contract": (
        change("    return", "    assert text\n    return"),
        "crash on empty replies: agent.py:3: AssertionError",
    ),
    "smoke": (
        change("    return", "    if text == 'real':\n        raise ValueError('boom')\n    return"),
        "every smoke rollout failed: 4 x error: ValueError: boom",
    ),
    "activation": (
        change("async", "def unused():\n    return 5\n\n\nasync"),
        "no-op: the changed lines did not run in any of 4 rollouts, and nothing differs from the parent",
    ),
    "minibatch": (change("green", "red"), "futile: gain -0.3000 on 4 problems, at most -0.2448 at 95%"),
}


@pytest.mark.parametrize("rung", ORDER)
def test_faulty_rewrite_fails_at_its_rung_and_not_before(session: Session, rung: str) -> None:
    edit, reason = FAILING[rung]
    report = put(session, edit)
    assert [one.rung for one in report.rungs] == ORDER[: ORDER.index(rung) + 1], report
    assert report.failure.startswith(f"{rung}: {reason}"), report.failure
    stored = session.run.generation(1).get_bytes("ladder.json")
    assert read(LadderReport, json.loads(stored or b"")) == report


def test_better_rewrite_passes_every_rung_once(session: Session) -> None:
    engine = cast("InProcess", session.engine)
    before = len(engine.played)
    report = put(session, change("green", "blue"))
    assert report.failure == ""
    assert [one.rung for one in report.rungs] == ORDER
    # The parent's rollouts are the execute phase's: only the child's are paid for.
    assert report.cost.rollouts == len(engine.played) - before == 4 + 4 * 2
    played = len(engine.played)
    assert put(session, change("green", "blue")) == report
    assert len(engine.played) == played


@pytest.mark.parametrize(
    ("edits", "knobs", "rung"),
    [
        ((change("async", "# a remark\nasync"),), {}, "static"),
        ((Edit("prompts/unused", text="Two words.\n"),), {}, "activation"),
        ((), {"n": 2}, "activation"),
    ],
)
def test_rewrites_without_effect_are_named(
    session: Session, edits: tuple[Edit, ...], knobs: dict[str, int], rung: str
) -> None:
    assert put(session, *edits, **knobs).failure.startswith(f"{rung}: no-op: ")


def test_canary_stops_the_run_before_the_first_rung(session: Session) -> None:
    canary = session.task.problems("train")[0].private["canary"]
    with pytest.raises(LeakError, match=r"file agent.py") as caught:
        put(session, change("green", canary))
    assert canary not in str(caught.value)


def test_first_harness_has_no_parent(session: Session) -> None:
    assert climb_first(session, PARENT).failure == ""
    broken = apply_edits(PARENT, [FAILING["contract"][0]])
    assert climb_first(session, broken).failure.startswith("contract: crash on empty")
