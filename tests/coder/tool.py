#!/usr/bin/env python3
"""A stand-in for a coding tool: reads its directory, tries a draft, submits a faulty rewrite, then repairs it.

Each round starts the tool again, as with real tools, and the tool reads its state from files.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

GOOD = """from menus import MENU


async def solve(problem, ctx):
    picks = [await ctx.choose("Pick a colour:", MENU) for _ in range(3)]
    known = [pick for pick in picks if pick in MENU] or MENU
    colour = max(known, key=MENU.index)
    await ctx.note(f"picked {colour}")
    return {"colour": colour}
"""
BROKEN = GOOD.replace("async def solve(problem, ctx):", "async def solve(problem, ctx)")


def main() -> None:
    prompt = " ".join(sys.argv[1:]) or sys.stdin.read()
    assert "README.md" in prompt, prompt
    readme = Path("README.md").read_text()
    assert "decision.json" in readme
    first = os.environ["SIA_ROUND"] == "1"
    if Path("EVIDENCE.md").exists():
        assert first or "FAULTS.md" in prompt
        decide(first)
    else:
        begin(first)
    print(f"round {os.environ['SIA_ROUND']}: done, key {os.environ.get('CODER_KEY', 'none')}")


def decide(first: bool) -> None:
    assert {"lever", "parent", "diagnosis"} <= set(json.loads(Path("schema.json").read_text())["properties"])
    if "# Generation 1 of" not in Path("EVIDENCE.md").read_text():
        hand_in(lever="stop", diagnosis="nothing is left to do", cites=[])
        return
    Path("harness/menus.py").write_text('MENU = ["red", "green", "blue"]\n')
    Path("harness/agent.py").write_text(BROKEN)
    if first:
        assert "not played" in attempt(0)
    else:
        assert "expected ':'" in Path("FAULTS.md").read_text()
        Path("harness/agent.py").write_text(GOOD)
        problem = json.loads(min(Path("problems").glob("*.json")).read_text())
        assert "draft " in attempt(1, "--problems", problem["id"])
    cited = Path("rollouts/INDEX.md").read_text().splitlines()[1].split()[0]
    assert Path(f"rollouts/{cited}.md").read_text().startswith("<<data ")
    hand_in(
        lever="harness",
        diagnosis="the menu lacks blue",
        cites=[cited],
        hypothesis="a wider menu holds a better colour",
        category="search",
        predicted_gain=0.2,
        falsifier="no gain at the gate",
    )


def begin(first: bool) -> None:
    """Write a first harness."""
    Path("harness").mkdir(exist_ok=True)
    Path("harness/harness.toml").write_text('name = "coded"\n')
    Path("harness/menus.py").write_text('MENU = ["red", "green", "blue"]\n')
    Path("harness/agent.py").write_text(BROKEN if first else GOOD)
    if not first:
        assert "draft " in attempt(1)
    Path("decision.json").write_text(json.dumps({"reasoning": "three picks"}))


def attempt(played: int, *options: str) -> str:
    """Run ./try_harness on harness/ and return its output."""
    done = subprocess.run(["./try_harness", *options], check=False, capture_output=True, text=True)
    assert done.returncode == (0 if played else 1), done
    return done.stdout


def hand_in(**given: object) -> None:
    executed = int(re.findall(r"the executed one, node (\d+)", Path("README.md").read_text())[0])
    Path("decision.json").write_text(json.dumps({"parent": executed, **given}))


if __name__ == "__main__":
    main()
