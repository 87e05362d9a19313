"""Measure the cost of Prefect, Ray and MLflow: time to first rollout, cost of a generation, whether either grows.

A task whose rollouts do next to nothing is run through the command line, with its own servers. All of a generation but
its rollouts is then overhead: flows and tasks of Prefect, dispatch by Ray, phases and metrics in MLflow. One run has
many generations of one rollout each (cost of a generation, from first to last). Another has many rollouts in a few
generations (memory of the driver, from first to last; a generation's rollouts are in memory until its end). No lever is
pulled, because gates and updates are rollouts and training.

The share at five minutes is that of the median overhead in a generation whose rollouts take 300 s. The first start
makes Prefect's and MLflow's tables, and the second finds them; both include the sandbox's self-test.

    python bench/overhead.py [--generations 100] [--rollouts 10000] [--quick] [--json FILE]
"""

import argparse
import json
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from sia_core.host.servers import stop
from sia_core.host.services import prefect_service
from sia_core.record.store import RunRecord, open_record

_REAL_S = 300.0
_POLL_S = 0.1
_FILES = {
    "task.toml": 'name = "idle"\ntitle = "Nothing to do"\nmetric = "nothing"\n',
    "task.py": """
from sia_core.domain.rollout import Verdict
from sia_core.domain.task import Problem


def load(split):
    return [Problem(f"{split}-{n}", split, {"number": n}) for n in range(128)]


def verify(problem, answer, lab):
    return Verdict(1.0)
""",
    "harness/harness.toml": 'name = "idle"\n',
    "harness/agent.py": "async def solve(problem, ctx):\n    return problem['number']\n",
}


@dataclass
class Sitting:
    """Measurements of a run, watched from outside."""

    first_rollout_s: float = 0.0
    wall_s: float = 0.0
    memory: list[tuple[int, float]] = field(default_factory=list)
    """Finished rollouts, and resident memory of the driver in MB."""
    overheads: list[float] = field(default_factory=list)
    """Seconds of each generation, without its rollouts."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print, and write JSON on request."""
    options = _parse(arguments)
    with tempfile.TemporaryDirectory(prefix="sia-overhead-") as folder:
        home, task = Path(folder) / "home", Path(folder) / "task"
        home.mkdir()
        for name, text in _FILES.items():
            (task / name).parent.mkdir(parents=True, exist_ok=True)
            (task / name).write_text(text)
        try:
            many = None if options.quick else watch(home, task, generations=options.generations, problems=1, rollouts=1)
            turns = min(10, max(1, options.rollouts // 50))
            each = options.rollouts // turns
            wide = watch(home, task, generations=turns, problems=min(100, each), rollouts=each)
        finally:
            stop(prefect_service(), home)
    found = {"cores": os.cpu_count(), **({"first": summary(many)} if many else {}), "second": summary(wide)}
    _print(found)
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=1))
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--generations", type=int, default=100)
    parser.add_argument("--rollouts", type=int, default=10_000)
    parser.add_argument(
        "--quick", action="store_true", help="only the second run, of 100 rollouts, which then is the first start"
    )
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args(arguments)
    if options.quick:
        options.rollouts = 100
    return options


def watch(home: Path, task: Path, *, generations: int, problems: int, rollouts: int) -> Sitting:
    """Run the task, and watch journal and driver while it runs."""
    sizes = {"generations": generations, "problems": problems, "rollouts": rollouts // problems, "test-problems": 2}
    words = [word for name, size in sizes.items() for word in (f"--{name}", str(size))]
    command = [sys.executable, "-m", "sia_core.cli.main", "run", str(task), "--policy", "scripted", "--levers", ""]
    names = ("MLFLOW_TRACKING_URI", "PREFECT_API_URL", "RAY_ADDRESS")
    environment = {name: value for name, value in os.environ.items() if name not in names} | {"SIA_HOME": str(home)}
    before, sitting, began = set(_journals(home)), Sitting(), time.monotonic()
    with (home / "said.txt").open("w+") as said:
        process = subprocess.Popen([*command, *words, "--no-ui"], env=environment, stdout=said, stderr=said)
        while process.poll() is None:
            time.sleep(_POLL_S)
            done = sum(map(_rows, set(_journals(home)) - before))
            if done and not sitting.first_rollout_s:
                sitting.first_rollout_s = time.monotonic() - began
            if done:
                sitting.memory.append((done, _resident_mb(process.pid)))
        sitting.wall_s = time.monotonic() - began
        said.seek(0)
        if process.returncode:
            raise SystemExit(f"sia run ended with {process.returncode}:\n{said.read()}")
    record = open_record(home, None)
    sitting.overheads = _overheads(record.open(record.summaries()[0].name))
    return sitting


def _overheads(run: RunRecord) -> list[float]:
    """Compute the wall clock of each generation's run in MLflow, without its rollouts' time on all cores."""
    found = []
    for generation, mlflow_run in zip(run.generations(), run.record.children(run.run_id), strict=True):
        wall = (mlflow_run.info.end_time - mlflow_run.info.start_time) / 1000
        played = sum(rollout.seconds for rollout in generation.rollouts("train"))
        found.append(max(0.0, wall - played / (os.cpu_count() or 1)))
    return found


def summary(sitting: Sitting) -> dict[str, Any]:
    """Summarise one run; `ends` are medians of the first and the last tenth, `driver_mb` of each."""
    middle = statistics.median(sitting.overheads)
    return {
        "first_rollout_s": sitting.first_rollout_s,
        "wall_s": sitting.wall_s,
        "generations": len(sitting.overheads),
        "overhead_s": middle,
        "overhead_ends_s": _ends(sitting.overheads),
        "share_at_5_minutes": middle / (_REAL_S + middle),
        "rollouts": sitting.memory[-1][0] if sitting.memory else 0,
        "driver_mb": _tenths([memory for _, memory in sitting.memory if memory]),
    }


def _ends(values: Sequence[float]) -> tuple[float, float]:
    tenth = max(1, len(values) // 10)
    return (statistics.median(values[:tenth]), statistics.median(values[-tenth:])) if values else (0.0, 0.0)


def _tenths(values: Sequence[float]) -> list[float]:
    """Return the median of each tenth, in order."""
    bounds = [len(values) * number // 10 for number in range(11)]
    return [statistics.median(values[low:high]) for low, high in pairwise(bounds) if low < high]


def _journals(home: Path) -> list[Path]:
    return list((home / "runs").glob("*/journal.db"))


def _rows(journal: Path) -> int:
    with suppress(sqlite3.Error), closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as database:
        return int(database.execute("SELECT count(*) FROM rollouts").fetchone()[0])
    return 0


def _resident_mb(pid: int) -> float:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
    return 0.0


def _print(found: dict[str, Any]) -> None:
    for name in ("first", "second"):
        if name not in found:
            continue
        one = found[name]
        first, last = one["overhead_ends_s"]
        memory = " ".join(f"{value:.0f}" for value in one["driver_mb"])
        print(f"{name} run: {one['generations']} generations, {one['rollouts']} rollouts, {one['wall_s']:.1f} s")
        print(f"  start to first rollout  {one['first_rollout_s']:6.1f} s")
        print(f"  overhead a generation   {one['overhead_s']:6.2f} s (first tenth {first:.2f}, last tenth {last:.2f})")
        print(f"  share at 5 minutes      {one['share_at_5_minutes']:6.2%}")
        print(f"  driver's memory in MB   {memory} (median of each tenth of the time)")


if __name__ == "__main__":
    sys.exit(main())
