"""Test the decisions of `rules` through the real flow, on tasks that need a certain lever."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from sia_core.record.journal import Journal
from sia_core.record.phases import ExecuteDone, SealedDone, StopDone
from sia_core.record.store import RunRecord
from tests.e2e.conftest import TOY, Sia

pytestmark = pytest.mark.slow

RICH = '["red", "green", "blue", "violet"]'
AGENT = """async def solve(problem, ctx):
    colour = await ctx.choose("Pick a colour:", {menu})
    await ctx.note(f"picked {{colour}}")
    {answer}
"""


def make(folder: Path, agent: str, knobs: str, worth: str = "", plan: str = "") -> Path:
    """The toy task with another harness, other worths of the colours and another plan."""
    task = shutil.copytree(TOY, folder / "task")
    (task / "harness" / "agent.py").write_text(agent)
    (task / "harness" / "harness.toml").write_text(f'name = "toy"\nentry = "agent.py"\n{knobs}')
    code = (task / "task.py").read_text()
    if worth:
        code = code.replace('{"red": 0.0, "green": 0.3, "blue": 1.0, "violet": 0.1}', worth)
        assert worth in code
    (task / "task.py").write_text(code)
    toml = (task / "task.toml").read_text()
    (task / "task.toml").write_text(toml.replace("[plan]", f"[plan]\n{plan}"))
    return task


def start(sia: Sia, task: Path, policy: Path, *options: str) -> tuple[RunRecord, str]:
    words = ("run", str(task), "--policy", f"local:{policy}", "--threads", "1", "--no-ui")
    output = sia(*words, *options, timeout=850)
    return sia.run(), output


def test_format_bug_leads_to_the_harness_lever(sia: Sia, tiny_model: Path, tmp_path: Path) -> None:
    answer = 'return colour if ctx.knobs["format"] == "loose" and ctx.rng.random() < 0.7 else {"colour": colour}'
    knob = '[knobs.format]\nvalue = "loose"\noptions = ["loose", "strict"]\n'
    worth = '{"red": 0.9, "green": 0.8, "blue": 1.0, "violet": 0.7}'
    task = make(tmp_path, AGENT.format(menu=RICH, answer=answer), knob, worth)
    run, output = start(sia, task, tiny_model, "--generations", "1")
    _, child = run.nodes()
    assert child.lever == "harness" and child.decision is not None and child.decision.knobs == {"format": "strict"}
    assert "refused" in child.decision.reason
    assert child.promoted and child.gate is not None and child.gate.looks <= child.gate.most_looks == 3
    assert f"{child.gate.looks} of 3" in output
    assert "predictions: gain predicted" in output and "ended by rule generations" in output


def test_good_harness_with_mixed_groups_leads_to_the_weight_lever(sia: Sia, tiny_model: Path, tmp_path: Path) -> None:
    task = make(tmp_path, AGENT.format(menu=RICH, answer='return {"colour": colour}'), "")
    run, _ = start(sia, task, tiny_model, "--generations", "1")
    _, child = run.nodes()
    assert child.lever == "weights" and child.candidate.adapter is not None
    assert child.promoted, child


def test_constant_groups_are_never_trained_on(sia: Sia, tiny_model: Path, tmp_path: Path) -> None:
    knob = "[knobs.tries]\nvalue = 1\nrange = [1, 2]\n"
    agent = AGENT.format(menu=RICH, answer='return {"colour": colour, "tries": ctx.knobs["tries"]}')
    worth = '{"red": 0.3, "green": 0.3, "blue": 0.3, "violet": 0.3}'
    run, _ = start(sia, make(tmp_path, agent, knob, worth), tiny_model, "--generations", "3")
    assert [node.lever for node in run.nodes()] == ["seed", "harness", "stop"]
    assert not any(node.candidate.adapter for node in run.nodes())
    stop = run.phase(StopDone)
    assert stop is not None and stop.rule == "agent" and stop.reason == run.nodes()[-1].decision.reason  # type: ignore[union-attr]
    assert run.tags["sia.stopped"] == "agent"


def test_lever_switches_after_a_plateau_and_regressions_are_rolled_back(
    sia: Sia, tiny_model: Path, tmp_path: Path
) -> None:
    """Both knobs remove good colours. Training promises little, and is still tried once the knobs have failed."""
    menus = '["red", "green"] if ctx.knobs["menu"] + ctx.knobs["list"] == "goodgood" else ["red", "violet"]'
    knobs = "".join(f'[knobs.{name}]\nvalue = "good"\noptions = ["good", "bad"]\n' for name in ("menu", "list"))
    worth = '{"red": 0.5, "green": 0.52, "violet": 0.1}'
    plan = "plateau = 0.5"
    task = make(tmp_path, AGENT.format(menu=menus, answer='return {"colour": colour}'), knobs, worth, plan)
    run, _ = start(sia, task, tiny_model, "--generations", "4", "--parent", "puct")
    seed, first, second, third, *_ = run.nodes()
    assert [first.lever, second.lever] == ["harness", "harness"]
    for worse in (first, second):
        assert not worse.promoted and (worse.gate is None or worse.gate.gain.mean < 0)
    assert first.decision is not None and second.decision is not None
    assert first.decision.knobs != second.decision.knobs
    # Rolled back: what is executed next is the seed again.
    executed = [generation.phase(ExecuteDone) for generation in run.generations()]
    assert [phase.node for phase in executed if phase][:3] == [0, 0, 0]
    assert third.lever == "weights" and third.parent == seed.index
    # Two failures may show a plateau already, or two pulls in a row be enough.
    assert third.decision is not None and "lever harness " in third.decision.reason
    # A promoted update makes another pair, on which the same ideas are new.
    pairs = [node.candidate for node in run.nodes()]
    tried = [
        (pairs[node.parent or 0], tuple(node.decision.knobs.items()))
        for node in run.nodes()
        if node.lever == "harness" and node.decision
    ]
    assert len(set(tried)) == len(tried) >= 2, "an idea that was rolled back was tried again on the same pair"
    # That a plateau ends a run is tests/loop/test_decisions.py: here training may find its small gain again and again.


def test_sealed_test_is_scored_once_on_its_own_seeds(sia: Sia, tiny_model: Path, tmp_path: Path) -> None:
    """Score none of the problems that chose the candidate; a finished run scores nothing again."""
    task = make(tmp_path, AGENT.format(menu=RICH, answer='return {"colour": colour}'), "")
    run, _ = start(sia, task, tiny_model, "--generations", "1")
    file = sia.home / "runs" / run.name / "journal.db"
    with closing(sqlite3.connect(file)) as database:
        keys = [key for (key,) in database.execute("SELECT key FROM rollouts")]
    with Journal(file) as journal:
        rollouts = list(journal.get(keys).values())
    sealed = [rollout.unit for rollout in rollouts if rollout.unit.split == "test"]
    others = [rollout.unit for rollout in rollouts if rollout.unit.split != "test"]
    assert len(sealed) == len({unit.key for unit in sealed}) == 2 * 12 * 6
    assert not {unit.seed for unit in sealed} & {unit.seed for unit in others}
    test, child = run.phase(SealedDone), run.nodes()[-1]
    assert test is not None and child.gate is not None
    assert test.final.rollouts == 12 * 6
    assert test.final.mean != child.gate.child.mean
