"""Test whether a choice between two levers is worth it, on a task of which each lever unlocks one half.

Half of the score is for the form of the answer, which only a knob of the harness sets. The other half is for the
correct one of four colours, which only the policy can learn to prefer: a tiny random model, which names it a quarter of
the time (from a colour that it never names, it could learn nothing). `sia arms` runs harness alone, weights alone,
fixed alternation and free choice by `rules`, on the same seeds and sealed problems. The exit code is 1 if choice is not
above each single lever, or is below alternation, by the interval over seeds.

    python -m bench.levers [--seeds 5] [--quick] [--json FILE]

--quick: one seed, weights alone, one generation; the machinery, not the claim.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sia_core.record.arms import ArmsRecord
from sia_core.record.store import open_record
from sia_core.search.arms import AGENT
from tests.models import make_tiny_model

_FILES = {
    "task.toml": """
name = "halves"
title = "Half for the form, half for the colour"
metric = "worth of the answer"
[plan]
generations = 3
problems = 4
rollouts = 8
gate_problems = 16
gate_rollouts = 4
test_problems = 16
test_rollouts = 4
[update]
rounds = 3
steps = 2
learning_rate = 0.01
rank = 4
""",
    "task.py": """
from sia_core.domain.rollout import Verdict
from sia_core.domain.task import Problem


def load(split):
    return [Problem(f"{split}-{number}", split, {"number": number}) for number in range(48)]


def verify(problem, answer, lab):
    if not isinstance(answer, dict):
        return Verdict(0.0, valid=False, feedback="no answer")
    form, colour = answer.get("form") == "full", answer.get("colour") == "green"
    said = f"form {'right' if form else 'wrong'}, colour {answer.get('colour')}"
    return Verdict(0.5 * form + 0.5 * colour, feedback=said)
""",
    "task.md": "Answer in the full form, with the right colour.\n",
    "harness/agent.py": """
async def solve(problem, ctx):
    colour = await ctx.choose("Pick a colour:", ["red", "green", "blue", "violet"])
    return {"colour": colour, "form": ctx.knobs["form"]}
""",
    "harness/harness.toml": """
name = "halves"
entry = "agent.py"
[knobs.form]
value = "bare"
options = ["bare", "full"]
""",
}


def measure(seeds: int, quick: bool) -> dict[str, object]:
    """Run the comparison, and return it as JSON data."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        home, task, model = (Path(folder) / name for name in ("home", "halves", "model"))
        make_tiny_model(model)
        for name, text in _FILES.items():
            (task / name).parent.mkdir(parents=True, exist_ok=True)
            (task / name).write_text(text.lstrip())
        arms = ("weights",) if quick else ("harness", "weights", "alternate", AGENT)
        words = ["arms", str(task), "--policy", f"local:{model}", "--seeds", str(seeds), "--arms", ",".join(arms)]
        words += ["--threads", "1", *(["--generations", "1"] if quick else [])]
        command = [sys.executable, "-m", "sia_core.cli.main"]
        environment = {**os.environ, "SIA_HOME": str(home)}
        try:
            subprocess.run([*command, *words], env=environment, check=True)
            record = open_record(home, None)
            (run,) = record.search("tags.`sia.kind` = 'arms'")
            found: dict[str, object] = ArmsRecord(record, run).get_json("comparison.json")
        finally:
            subprocess.run([*command, "ui", "--stop"], env=environment, check=False, stdout=subprocess.DEVNULL)
    return {**found, "seconds": time.monotonic() - began}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers there")
    options = parser.parse_args()
    report = measure(1 if options.quick else options.seeds, options.quick)
    print(f"{report['seconds']:.0f} s in all")
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    failed = []
    for one in report["versus"] if not options.quick else ():  # type: ignore[attr-defined]
        low, high = one["over_seeds"]["low"], one["over_seeds"]["high"]
        right = high >= 0 if one["other"] == "alternate" else low > 0
        failed += [] if right else [f"{one['arm']} against {one['other']}: [{low:+.4f}, {high:+.4f}]"]
    for line in failed:
        print(f"FAILED {line}")
    raise SystemExit(bool(failed))


if __name__ == "__main__":
    main()
