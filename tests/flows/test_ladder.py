"""The whole ladder without Ray: for each rung a rewrite that fails exactly there, and the record the agent gets."""

import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from flows import ladder, phases
from flows.ladder import climb, climb_first
from flows.ledger import Ledger
from flows.levers import refusal, rewrite
from flows.session import Session
from sia_core.candidate import Adapter, Candidate
from sia_core.config import RunConfig
from sia_core.engine.sandbox.bubblewrap import find_bubblewrap
from sia_core.engine.worker import RolloutRunner
from sia_core.errors import LeakError, SandboxError
from sia_core.generation import SEED_NODE, Decision, LadderReport, Node
from sia_core.harness import Harness
from sia_core.patch import Block, Edit, apply_edits
from sia_core.policy.protocol import Completion, Request
from sia_core.policy.scripted import ScriptedPolicy
from sia_core.progress import Silent
from sia_core.record.journal import Journal
from sia_core.record.store import open_record
from sia_core.rollout import Rollout, Unit
from sia_core.task import Task
from tests.factories import TOY

TOML = b'name = "h"\n[knobs.n]\nvalue = 1\nrange = [1, 4]\n'
AGENT = 'async def solve(problem, ctx):\n    text = await ctx.chat("Say")\n    return {"colour": "green"}\n'
PARENT = Harness.from_files({"harness.toml": TOML, "agent.py": AGENT.encode(), "prompts/unused": b"One.\n"})
ORDER = list(ladder.RUNGS)


class Real(ScriptedPolicy):
    """Another than the contract's."""

    def sample(self, request: Request) -> Completion:
        return Completion("real", super().sample(request).prompt)


class InProcess:
    """The engine's place, without Ray."""

    policy = Real()

    def __init__(self, runner: RolloutRunner) -> None:
        self._runner = runner
        self.played: list[Unit] = []

    def run(self, units: Iterable[Unit], harness: Harness, adapter: Adapter | None) -> Iterator[Rollout]:
        for unit in units:
            self.played.append(unit)
            yield self._runner.run(unit, harness, adapter, self.policy)


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[Session]:
    try:
        find_bubblewrap()
    except SandboxError as error:
        pytest.skip(str(error))
    home = tmp_path_factory.mktemp("home")
    shutil.copy(empty_store, home)
    task = Task.load(TOY)
    plan = {
        "problems": 4,
        "rollouts": 2,
        "gate_problems": 2,
        "gate_rollouts": 1,
        "test_problems": 2,
        "test_rollouts": 1,
    }
    config = RunConfig(task=TOY, generations=1, policy="scripted", **plan)  # type: ignore[arg-type]
    run = open_record(home, None).create(config, {"sia.task": "toy", "sia.task_digest": task.digest})
    run.put_harness(PARENT)
    seed = Node(SEED_NODE, None, Candidate(PARENT.digest), "seed", promoted=True)
    run.complete("start", {"node": seed.to_dict()})
    with closing(RolloutRunner(task, "strict")) as runner, Journal(Path(home) / "journal.db") as journal:
        engine = cast("Any", InProcess(runner))
        ledger = Ledger(run, journal, task.config.resources, None, Silent())
        made = Session(home, run, config, task, engine, journal, cast("Any", SimpleNamespace()), Silent(), ledger)
        phases.execute(made, 1)
        yield made


def put(session: Session, *edits: Edit, **knobs: Any) -> LadderReport:
    node = session.run.nodes()[0]
    decision = Decision("harness", 0, "why", "rules", edits=edits, knobs=knobs)
    child = apply_edits(PARENT, edits).with_knobs(knobs)
    return climb(session, session.run.generation(1), decision, node, child)


def change(old: str, new: str) -> Edit:
    return Edit("agent.py", blocks=(Block(old, new),))


def test_a_run_may_bound_how_far_a_rewrite_goes(session: Session) -> None:
    node = session.run.nodes()[0]
    bounded = replace(session, config=session.config.model_copy(update={"edit_scope": "prompts"}))
    decision = Decision("harness", 0, "why", "openai:m", edits=(Edit("skill.md", text="Look first."),))
    assert rewrite(bounded, decision, node).files["skill.md"] == b"Look first."
    assert refusal(bounded, decision, node, []) is None
    moved = replace(decision, edits=(), knobs={"n": 2})
    assert "harness.toml: is outside this run's edit scope" in (refusal(bounded, moved, node, []) or "")
    assert refusal(session, moved, node, []) is None


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
def test_a_rewrite_fails_at_its_rung_and_at_none_before(session: Session, rung: str) -> None:
    edit, reason = FAILING[rung]
    report = put(session, edit)
    assert [one.rung for one in report.rungs] == ORDER[: ORDER.index(rung) + 1], report
    assert report.failure.startswith(f"{rung}: {reason}"), report.failure
    stored = session.run.generation(1).get_bytes("ladder.json")
    assert LadderReport.from_dict(json.loads(stored or b"")) == report


def test_a_better_rewrite_passes_and_is_not_put_to_a_rung_twice(session: Session) -> None:
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
def test_no_ops_are_named(session: Session, edits: tuple[Edit, ...], knobs: dict[str, int], rung: str) -> None:
    assert put(session, *edits, **knobs).failure.startswith(f"{rung}: no-op: ")


def test_a_canary_stops_the_run_before_the_first_rung(session: Session) -> None:
    canary = session.task.problems("train")[0].private["canary"]
    with pytest.raises(LeakError, match=r"file agent.py") as caught:
        put(session, change("green", canary))
    assert canary not in str(caught.value)


def test_a_first_harness_has_no_parent(session: Session) -> None:
    assert climb_first(session, PARENT).failure == ""
    broken = apply_edits(PARENT, [FAILING["contract"][0]])
    assert climb_first(session, broken).failure.startswith("contract: crash on empty")
