"""Score the trimul menus, and measure the difference of two verdicts on one program.

Programs of the seed harness's widest menus go through the real verifier in the strict sandbox, several times each:
score, its spread over verdicts, microseconds, and the cost of a verification. The plan comes from SIA_TRIMUL_PLAN.

    python bench/trimul_landscape.py [--quick] [--repeats N] [--json FILE]
"""

import argparse
import itertools
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sia_core.domain.task import Task
from sia_core.engine.sandbox import open_sandbox
from sia_core.engine.worker import SandboxLab
from tasks.trimul.settings import PLAN

Settings = dict[str, Any]


def paths(quick: bool) -> Iterator[Settings]:
    """Yield the settings of the programs: every form, then the other options of the menus."""
    forms = ("rows", "chunk", "einsum", "batched")
    if quick:
        yield from ({"FORM": form} for form in forms)
        return
    for form, project, gate in itertools.product(forms, ("apart", "together"), ("new", "place")):
        yield {"FORM": form, "PROJECT": project, "GATE": gate}
    yield {"FORM": "batched", "DTYPE": "bfloat16"}
    yield {"FORM": "batched", "THREADS": 2}


def measured(task: Task, code: str, lab: SandboxLab, repeats: int) -> dict[str, Any]:
    """Measure a program with several fresh verdicts."""
    problem, scores, us, walls = task.problems("train")[0], [], [], []
    for _ in range(repeats):
        task.module.forget()
        began = time.perf_counter()
        verdict = task.verify(problem, {"code": code}, lab)
        walls.append(time.perf_counter() - began)
        scores.append(verdict.score)
        us.append(verdict.metrics.get("strict_us", 0.0))
    spread = float(np.std(scores, ddof=1)) if repeats > 1 else 0.0
    return {"score": float(np.mean(scores)), "sd": spread, "us": float(np.mean(us)), "seconds": float(np.median(walls))}


def main() -> None:
    """Print a table, and write it on request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="four programs, N = 32, twice each")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.quick:
        os.environ[PLAN] = "ci"
    task, rows = Task.load("trimul"), []
    source = (task.path / "harness" / "kernel.py").read_text()
    lab = SandboxLab(open_sandbox("strict"))
    try:
        print(f"{'program':48} {'score':>7} {'sd':>6} {'us':>9} {'s':>6}   load {os.getloadavg()[0]:.1f}")
        for settings in paths(args.quick):
            code = source + "\n\n" + "".join(f"{name} = {value!r}\n" for name, value in settings.items())
            row = {**settings, **measured(task, code, lab, 2 if args.quick else args.repeats)}
            rows.append(row)
            name = " ".join(map(str, settings.values()))
            print(f"{name:48} {row['score']:7.3f} {row['sd']:6.3f} {row['us']:9.0f} {row['seconds']:6.2f}", flush=True)
    finally:
        lab.close()
    if args.json:
        args.json.write_text(json.dumps({"plan": os.environ.get(PLAN, "embedded"), "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
