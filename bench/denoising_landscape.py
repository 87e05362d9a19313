"""Score the denoising menus: for each setting of the seed harness, a random policy and the best fixed path.

Every path through the widest menus is written as a program and scored by the task's real verifier on a few training
problems; the best path of each setting also on gate problems, which have other cells. Narrower menus are subsets of
these paths. Several attempts with inner selection are simulated from the same table, by the harness's rule. Menu
programs are trusted: they run in this process, not in a sandbox.

With `--sample N` the settings with more than N paths are estimated instead: N paths, drawn as a random policy draws
them, are scored on one problem, and `best` is the best of these.

    python bench/denoising_landscape.py [--quick] [--problems N] [--sample N] [--json FILE]
"""

import argparse
import asyncio
import contextlib
import importlib.util
import io
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from sia_core.domain.harness import Harness, KnobValue
from sia_core.domain.lab import Limits, SandboxResult
from sia_core.domain.task import Problem, Task

Knobs = Mapping[str, KnobValue]
DRAWS = 4000

STEPS: tuple[tuple[str, dict[str, KnobValue]], ...] = (
    ("seed", {}),
    ("methods=wide", {"methods": "wide"}),
    ("transforms=all", {"transforms": "all"}),
    ("sizes=fine", {"sizes": "fine"}),
    ("raw=on", {"raw": "on"}),
    ("expected=on", {"expected": "on"}),
    ("attempts=2", {"attempts": 2}),
    ("attempts=4", {"attempts": 4}),
    ("methods, transforms", {"methods": "wide", "transforms": "all"}),
    ("methods, transforms, sizes", {"methods": "wide", "transforms": "all", "sizes": "fine"}),
    ("all but expected", {"methods": "wide", "transforms": "all", "sizes": "fine", "raw": "on"}),
    ("all menus", {"methods": "wide", "transforms": "all", "sizes": "fine", "raw": "on", "expected": "on"}),
    (
        "all menus, attempts=2",
        {"methods": "wide", "transforms": "all", "sizes": "fine", "raw": "on", "expected": "on", "attempts": 2},
    ),
    (
        "all menus, attempts=4",
        {"methods": "wide", "transforms": "all", "sizes": "fine", "raw": "on", "expected": "on", "attempts": 4},
    ),
)


class InProcessLab:
    """Runner of trusted programs by exec in a temporary directory."""

    def run(
        self, files: Mapping[str, bytes], limits: Limits, *, entry: str = "main.py", collect: Sequence[str] = ()
    ) -> SandboxResult:
        """Implement `Lab.run` without any confinement or limits."""
        del limits
        said = io.StringIO()
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), contextlib.redirect_stdout(said):
            for name, data in files.items():
                Path(name).write_bytes(data)
            exec(compile(files[entry], entry, "exec"), {"__name__": "__main__"})  # noqa: S102 - trusted, see above
            found = {name: Path(name).read_bytes() for name in collect if Path(name).exists()}
        return SandboxResult("ok", stdout=said.getvalue(), files=found)


class FixedPath:
    """A `ctx` that follows given choices, then first options, and stores the width of each menu."""

    def __init__(self, knobs: Knobs, path: Sequence[int]) -> None:
        self.knobs = {**knobs, "attempts": 1}
        self.path = list(path)
        self.widths: list[int] = []
        self.labels: list[str] = []

    async def choose(self, _prompt: str, options: Sequence[str]) -> str:
        """Choose the option of the path."""
        turn = len(self.widths)
        self.widths.append(len(options))
        self.labels.append(options[self.path[turn] if turn < len(self.path) else 0])
        return self.labels[-1]


@dataclass(frozen=True)
class Way:
    """Path through the menus."""

    label: str
    program: str
    chance: float
    """Probability under a policy that picks uniformly at every turn."""


@dataclass(frozen=True)
class Row:
    """Figures of a program on a problem."""

    score: float
    valid: bool
    inner: float
    seconds: float


def load_agent(folder: Path) -> ModuleType:
    """Import the harness's entry module from its file."""
    spec = importlib.util.spec_from_file_location("denoising_agent", folder / "agent.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def paths(agent: ModuleType, knobs: Knobs) -> list[Way]:
    """List every path through the menus of one knob setting."""
    found, path = [], [0]
    while path:
        ctx = FixedPath(knobs, path)
        code = asyncio.run(agent.solve({}, ctx))["code"]
        chance = float(np.prod([1.0 / width for width in ctx.widths]))
        found.append(Way(" ".join(ctx.labels), code, chance))
        path = _next([*path, *[0] * (len(ctx.widths) - len(path))], ctx.widths)
    return found


def _next(path: list[int], widths: Sequence[int]) -> list[int]:
    while path and path[-1] + 1 == widths[len(path) - 1]:
        path = path[:-1]
    return [*path[:-1], path[-1] + 1] if path else []


@cache
def loaded() -> tuple[Task, ModuleType]:
    """Load the task and its seed agent, once per process."""
    task = Task.load("denoising")
    return task, load_agent(task.path / task.config.harness)


def measure(job: tuple[str, int]) -> Row:
    """Score and inner error of one program on one training problem."""
    program, number = job
    (task, agent), lab = loaded(), InProcessLab()
    problem = task.problems("train")[number]
    started = time.perf_counter()
    verdict = task.verify(problem, {"code": program}, lab)
    seconds = time.perf_counter() - started
    return Row(verdict.score, verdict.valid, asyncio.run(agent.judge(program, _Runner(problem, lab))), seconds)


class _Runner:
    """Part of `ctx` that runs programs."""

    def __init__(self, problem: Problem, lab: InProcessLab) -> None:
        self._problem, self._lab = problem, lab

    async def run(self, code: str, *, seconds: float = 30.0) -> dict[str, Any]:
        """Run a program as the gateway does."""
        result = self._lab.run({"main.py": code.encode(), **self._problem.files}, Limits(wall_s=seconds))
        return {"status": result.status, "stdout": result.stdout, "stderr": result.stderr}


def table(programs: Sequence[str], problems: int, workers: int) -> dict[str, list[Row]]:
    """Measure every program on every problem."""
    jobs = list(itertools.product(programs, range(problems)))
    rows: dict[str, list[Row]] = {program: [] for program in programs}
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for number, (job, row) in enumerate(zip(jobs, pool.map(measure, jobs, chunksize=8), strict=True), 1):
            rows[job[0]].append(row)
            if number % 100 == 0:
                print(f"{number}/{len(jobs)} programs", file=sys.stderr, flush=True)
    return rows


def sampled(agent: ModuleType, knobs: Knobs, count: int) -> dict[str, Any]:
    """Estimate a random policy under one knob setting by `count` draws, scoring each program once."""
    ways = paths(agent, knobs)
    drawn = np.random.RandomState(0).choice(len(ways), size=count, p=np.array([way.chance for way in ways]))
    (task, _), lab = loaded(), InProcessLab()
    problem = task.problems("train")[0]
    rows = {way: task.verify(problem, {"code": ways[way].program}, lab) for way in sorted(set(drawn.tolist()))}
    scores = np.array([rows[way].score for way in drawn])
    best = max(rows, key=lambda way: rows[way].score)
    return {
        "paths": len(ways),
        "random": round(float(scores.mean()), 4),
        "error": round(float(scores.std() / np.sqrt(count)), 4),
        "valid": round(float(np.mean([rows[way].valid for way in drawn])), 3),
        "best": round(rows[best].score, 4),
        "best_path": ways[best].label,
    }


def gate_score(program: str, problems: int) -> float:
    """Return the mean score on problems of the gate split."""
    task, _ = loaded()
    gate = task.problems("gate")[:problems]
    return float(np.mean([task.verify(problem, {"code": program}, InProcessLab()).score for problem in gate]))


def summary(agent: ModuleType, knobs: Knobs, rows: Mapping[str, list[Row]]) -> dict[str, Any]:
    """Summarise random policy and best fixed path under one knob setting."""
    ways = paths(agent, knobs)
    chance = np.array([way.chance for way in ways])
    scores = np.array([[row.score for row in rows[way.program]] for way in ways])
    inner = np.array([[row.inner for row in rows[way.program]] for way in ways])
    valid = np.array([[row.valid for row in rows[way.program]] for way in ways])
    attempts = int(knobs["attempts"])
    best = int(np.argmax(scores.mean(axis=1)))
    return {
        "paths": len(ways),
        "random": round(_attempted(chance, scores, inner, attempts), 4),
        "valid": round(float(chance @ valid.mean(axis=1)), 3),
        "best": round(float(scores[best].mean()), 4),
        "best_on_gate": round(gate_score(ways[best].program, 4), 4),
        "best_path": ways[best].label,
    }


def _attempted(chance: Any, scores: Any, inner: Any, attempts: int) -> float:
    """Return the expected score of the harness's pick, the first with least inner error of `attempts` random paths."""
    drawn = np.random.RandomState(0).choice(len(chance), size=(DRAWS, attempts), p=chance)
    if attempts == 1:
        return float(chance @ scores.mean(axis=1))
    totals = []
    for problem in range(scores.shape[1]):
        picked = drawn[np.arange(DRAWS), np.argmin(inner[drawn, problem], axis=1)]
        totals.append(scores[picked, problem].mean())
    return float(np.mean(totals))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Landscape of the denoising menus.")
    parser.add_argument("--quick", action="store_true", help="one problem; without the menus `raw` and `expected`")
    parser.add_argument("--problems", type=int, default=2, help="training problems to measure on")
    parser.add_argument("--sample", type=int, help="estimate wider settings by this many paths")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path, help="write the table here")
    arguments = parser.parse_args()
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    task, agent = loaded()
    task.prepare(lambda _what, _done, _total: None)
    harness = Harness.load(task.path / task.config.harness)
    steps = [(name, {**harness.knobs, **moved}) for name, moved in STEPS]
    if arguments.quick:
        steps = [(name, knobs) for name, knobs in steps if knobs["raw"] == knobs["expected"] == "off"]
    if arguments.sample:
        wide = [step for step in steps if step[1]["attempts"] == 1 and len(paths(agent, step[1])) > arguments.sample]
        report = {name: sampled(agent, knobs, arguments.sample) for name, knobs in wide}
        for name, row in report.items():
            print(f"{name:28} {row}")
        if arguments.json:
            arguments.json.write_text(json.dumps(report, indent=2) + "\n")
        return
    programs = sorted({way.program for _, knobs in steps for way in paths(agent, knobs)})
    rows = table(programs, 1 if arguments.quick else arguments.problems, arguments.workers)
    report = {name: summary(agent, knobs, rows) for name, knobs in steps}
    print(f"{'setting':28} {'paths':>6} {'valid':>6} {'random':>8} {'best':>8} {'gate':>8}  best path")
    for name, row in report.items():
        numbers = (
            f"{row['paths']:6d} {row['valid']:6.2f} {row['random']:8.4f} {row['best']:8.4f} {row['best_on_gate']:8.4f}"
        )
        print(f"{name:28} {numbers}  {row['best_path']}")
    seconds = [row.seconds for found in rows.values() for row in found]
    print(
        f"{len(programs)} programs; one verification {np.median(seconds):.3f} s (median), {max(seconds):.3f} s (most)"
    )
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
        ways = paths(agent, steps[-1][1])
        detail = {way.label: [round(row.score, 4) for row in rows[way.program]] for way in ways}
        arguments.json.with_suffix(".paths.json").write_text(json.dumps(detail, indent=1) + "\n")


if __name__ == "__main__":
    main()
