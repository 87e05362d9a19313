"""Count how many decisions of a language model reach the gate, in one run of the toy task with scripted conversations.

Each generation has one conversation: good, wrong in one way and then repaired as the reply asks, cut off, broken, slow.
All branch from the seed, so that none depends on the outcome of another. A decision counts if its child met the gate in
its own generation. The model is a server of this script; the run is `sia run`, with Prefect, Ray and MLflow.

    python -m bench.agent [--quick] [--json FILE] [--tree DIR]

--quick: the first four conversations. --tree: a checkout of another version to compare with, whose `sia` runs under
this Python.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sia_core.record.store import RunRecord, open_record
from sia_core.record.tags import Tag
from tests.wire.brain import Asked, Said, Step, read
from tests.wire.server import Handler, chat, serve

ROOT = Path(__file__).parents[1]
ENVIRONMENT = dict(os.environ)
"""Environment at the start: MLflow changes this process's environment to its last store, where the next run must not
write."""
WIDE = 'MENU = ["red", "green", "blue"]\n'
AGENT = """from menus import MENU


async def solve(problem, ctx):
    picks = [await ctx.choose("Pick a colour:", MENU) for _ in range(TRIES)]
    await ctx.note(f"picked {picks}")
    return {"colour": max(picks, key=MENU.index)}
"""
QUICK = 4
TURNS = 8
"""Most replies of a conversation, after which it ends without a decision."""


def agent(tries: int, old: str = "", new: str = "") -> str:
    """Write the entry; `tries` makes the harnesses of conversations differ."""
    return AGENT.replace("TRIES", str(tries)).replace(old, new) if old else AGENT.replace("TRIES", str(tries))


def submit(asked: Asked, **given: Any) -> list[Said]:
    """Make a submission whose claims hold, except for the changes of a conversation."""
    whole = {
        "lever": "harness",
        "parent": 0,
        "parent_reason": "each conversation begins from the seed",
        "diagnosis": "the menu lacks blue",
        "cites": asked.ids[:1],
        "hypothesis": "a wider menu holds a better colour",
        "category": "search",
        "predicted_gain": 0.2,
        "falsifier": "no gain at the gate",
        **given,
    }
    return [("submit_decision", whole)]


def rewrite(text: str, menu: str = WIDE) -> list[dict[str, str]]:
    """Make edits with both whole files."""
    return [{"file": "agent.py", "text": text}, {"file": "menus.py", "text": menu}]


def good(tries: int) -> Step:
    """Make a step with an acceptable submission."""
    return lambda asked: submit(asked, edits=rewrite(agent(tries)))


def broken(tries: int, old: str, new: str) -> Step:
    """Make a step whose rewrite has one fault."""
    return lambda asked: submit(asked, edits=rewrite(agent(tries, old, new)))


@dataclass(frozen=True)
class Talk:
    """A scripted conversation."""

    name: str
    steps: Sequence[Step]
    cut: int | None = None
    """Number of the reply whose arguments are cut off."""


def talks() -> list[Talk]:
    """List the conversations, in the order of generations."""
    seed = "from menus import MENU\n"
    base = "async def solve(problem, ctx):\n    "
    return [
        Talk("good: reads, then decides", [_read, good(2)]),
        Talk("missing colon, then repaired", [broken(3, "ctx):", "ctx)"), good(3)]),
        Talk("comment only, then a change", [_comment, good(4)]),
        Talk("entry that does not import, then repaired", [broken(5, seed, seed + "x = 1 / 0\n"), good(5)]),
        Talk(
            "every smoke rollout fails, then repaired", [broken(6, base, base + "await ctx.nothing()\n    "), good(6)]
        ),
        Talk("forbidden import, then repaired", [broken(7, seed, seed + "import torch\n"), good(7)]),
        Talk("options of a module's menu change", [_options]),
        Talk("a draft's one-line repair in the next decision", [broken(8, base, base + "problem['none']\n    ")]),
        Talk("... the repair", [good(8)]),
        Talk(
            "four wrong submissions, then a good one", [_no_hypothesis, _no_cite, _wrong_block, _wrong_problem, good(9)]
        ),
        Talk("a lever that cannot be pulled, then another", [_weights, good(10)]),
        Talk("arguments cut in the middle, then whole", [good(11), good(11)], cut=0),
        Talk("talks without tools, then decides", [_silent, _silent, good(12)]),
    ]


def _read(asked: Asked) -> list[Said]:
    return [("list_rollouts", {"order": "worst"}), ("read_rollout", {"id": asked.ids[0], "view": "raw"})]


def _comment(asked: Asked) -> list[Said]:
    block = {"search": "async def solve", "replace": "# solve\nasync def solve"}
    return submit(asked, edits=[{"file": "agent.py", "blocks": [block]}])


def _options(asked: Asked) -> list[Said]:
    block = {"search": '["red", "green"]', "replace": '["red", "green", "blue"]'}
    return submit(asked, edits=[{"file": "agent.py", "blocks": [block]}])


def _no_hypothesis(asked: Asked) -> list[Said]:
    return submit(asked, hypothesis="", edits=rewrite(agent(9)))


def _no_cite(asked: Asked) -> list[Said]:
    return submit(asked, cites=["<<data"], edits=rewrite(agent(9)))


def _wrong_block(asked: Asked) -> list[Said]:
    return submit(asked, edits=[{"file": "agent.py", "blocks": [{"search": "not there", "replace": ""}]}])


def _wrong_problem(asked: Asked) -> list[Said]:
    return submit(asked, predicted_fixes=["train-999"], edits=rewrite(agent(9)))


def _weights(asked: Asked) -> list[Said]:
    return submit(asked, lever="weights", category="policy")


def _silent(_: Asked) -> list[Said]:
    return []


class Model:
    """Server of the model, which plays the conversations and counts requests."""

    def __init__(self, chosen: Sequence[Talk]) -> None:
        self._talks = chosen
        self.asked = 0

    def __call__(self, handler: Handler, body: dict[str, Any]) -> None:
        self.asked += 1
        asked = read(body)
        talk = self._talks[asked.generation - 1]
        calls = talk.steps[asked.turn](asked) if asked.turn < len(talk.steps) else []
        functions = []
        for number, (name, given) in enumerate(calls):
            text = json.dumps(given)
            text = text[: len(text) // 2] if talk.cut == asked.turn else text
            function = {"name": name, "arguments": text}
            functions.append({"id": f"c{asked.turn}{number}", "type": "function", "function": function})
        chat(None if calls else "Let me think.", calls=functions, finish="tool_calls" if calls else "stop")(
            handler, body
        )


@dataclass(frozen=True)
class Outcome:
    """End of a conversation."""

    name: str
    gate: bool
    decided_by: str
    failure: str


def measure(chosen: Sequence[Talk], tree: Path) -> tuple[list[Outcome], int]:
    """Run the conversations with `tree`'s sia; return their outcomes and the number of requests.

    Each is a generation of one run. After a conversation without a decision, `rules` may stop the run in the model's
    place; the remaining conversations then get another run.
    """
    outcomes: list[Outcome] = []
    asked = 0
    while len(outcomes) < len(chosen):
        rest = chosen[len(outcomes) :]
        nodes, requests = run_talks(rest, tree)
        asked += requests
        outcomes += [_outcome(talk, node) for talk, node in zip(rest, nodes, strict=False)]
    return outcomes, asked


def run_talks(chosen: Sequence[Talk], tree: Path) -> tuple[list[dict[str, Any]], int]:
    """Make one run; return the nodes of its generations in order, and the number of requests."""
    with tempfile.TemporaryDirectory(prefix="sia-bench-") as folder, serve() as wire:
        model = wire.answer = Model(chosen)
        environment = {**ENVIRONMENT, "SIA_HOME": folder, "OPENAI_API_KEY": "bench", "PYTHONPATH": str(tree)}
        spec = f"openai:m@{wire.url}/v1"
        plan = ("--policy", "scripted", "--rollouts", "2", "--test-problems", "2", "--threads", "1", "--no-ui")
        words = ("run", str(tree / "tests" / "toy"), "--agent", spec, "--agent-turns", str(TURNS), *plan)
        command = [sys.executable, "-P", "-m", "sia_core.cli.main"]
        run = [*command, *words, "--generations", str(len(chosen))]
        try:
            done = subprocess.run(run, env=environment, cwd=folder, capture_output=True, text=True, check=False)
            nodes = [] if done.returncode else _nodes(Path(folder))
        finally:
            subprocess.run([*command, "ui", "--stop"], env=environment, cwd=folder, capture_output=True, check=False)
        if not nodes:
            said = f"{done.stdout[-2000:]}{done.stderr[-2000:]}"
            raise SystemExit(f"sia run ended with {done.returncode} and left no generation:\n{said}")
    return nodes, model.asked


def _outcome(talk: Talk, node: Mapping[str, Any]) -> Outcome:
    by = node["decision"]["agent"].split("@")[0]
    return Outcome(talk.name, by != "rules" and node["gate"] is not None, by, node["failure"])


def _nodes(home: Path) -> list[dict[str, Any]]:
    """Read the nodes of the only run as JSON, because another version's may not parse as objects."""
    record = open_record(home, None)
    runs = [RunRecord(record, found) for found in record.search(f"tags.`{Tag.KIND}` = 'evolution'")]
    found = [generation.get_json("phases/improve.json") for run in runs for generation in run.generations()]
    return [node for phase in found if phase for node in phase["nodes"]]


def main() -> None:
    """Print a line for each conversation, and how many decisions reached the gate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--tree", type=Path, default=ROOT)
    given = parser.parse_args()
    chosen = talks()[:QUICK] if given.quick else talks()
    began = time.monotonic()
    outcomes, asked = measure(chosen, given.tree.resolve())
    for one in outcomes:
        print(
            f"{'gate' if one.gate else '-':5} {one.decided_by:12} {one.name}{f': {one.failure}' if one.failure else ''}"
        )
    reached = sum(one.gate for one in outcomes)
    seconds = time.monotonic() - began
    print(f"{reached} of {len(outcomes)} decisions reached the gate; {asked} replies, {seconds:.0f} s")
    if given.json:
        rows = [asdict(one) for one in outcomes]
        given.json.write_text(
            json.dumps({"reached": reached, "of": len(rows), "replies": asked, "talks": rows}, indent=1)
        )


if __name__ == "__main__":
    main()
