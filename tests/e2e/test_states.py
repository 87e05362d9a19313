"""Test-time training: rollouts that begin from earlier answers, through a whole run."""

import ast
import json
import shutil
from pathlib import Path

import pytest

from tests.e2e.conftest import TOY, Sia

AGENT = """
async def solve(problem, ctx):
    await ctx.note(f"from {problem.get('earlier')}")
    colour = await ctx.choose("Pick a colour:", ["red", "green", "blue", "violet"])
    return {"colour": colour, "after": (problem.get("earlier") or {}).get("answer")}
"""


@pytest.mark.slow
def test_groups_begin_from_earlier_answers(sia: Sia, tiny_model: Path, tmp_path: Path) -> None:
    task = Path(shutil.copytree(TOY, tmp_path / "toy", ignore=shutil.ignore_patterns("__pycache__")))
    (task / "harness" / "agent.py").write_text(AGENT)
    source = (task / "task.py").read_text()
    # Two training problems, which come again in each block.
    (task / "task.py").write_text(source.replace('"train": 12', '"train": 2'))
    options = ("--levers", "weights", "--generations", "2", "--problems", "2", "--reuse-states", "--threads", "1")
    sia("run", str(task), "--policy", f"local:{tiny_model}", "--no-ui", *options, timeout=500)
    run = sia.run()
    first, second = run.generations()
    assert {rollout.unit.state for rollout in first.rollouts("train")} == {None}
    rounds = [rollout for name in first.training() if name != "train" for rollout in first.rollouts(name)]
    begun = [rollout for rollout in (*rounds, *second.rollouts("train")) if rollout.unit.state is not None]
    known = {rollout.unit.key: rollout for rollout in (*first.rollouts("train"), *rounds)}
    assert begun and rounds
    for rollout in begun:
        state = json.loads(rollout.unit.state or "")
        start = known[state["unit"]]
        assert start.unit.problem == rollout.unit.problem
        assert (start.answer, start.score) == (state["answer"], state["score"])
        # The harness was told, and of nothing more.
        assert rollout.answer["after"] == start.answer
        told = ast.literal_eval(rollout.notes[0].removeprefix("from "))
        assert told == {"answer": start.answer, "score": start.score}
    gate = first.rollouts("gate_child")
    assert {rollout.unit.state for rollout in gate} == {None}
    assert {rollout.notes[0] for rollout in gate} == {"from None"}
