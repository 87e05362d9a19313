"""Play thousands of rollouts through the real engine, one in twenty an attack, and check that nothing grows or changes.

Ray, gateway, strict sandbox, verifier and scripted policy are real. The harness does honest work on most problems, and
runs an attack of the tests' table on the others, or looks for traces of one. Attacks must get nothing, and score 0 by
their own fault, not by an error of the infrastructure. Afterwards the same honest units are played without attacks, and
each score must be the same.

Meanwhile descriptors, processes and memory of the workers and their descendants are counted, and mounts, files in
/dev/shm and TMPDIR. The lowest count of the last quarter must equal that of the quarter before: a leak lifts the lowest
count too, which does not depend on work in flight. The first half lets caches fill. Only processes that outlive a
rollout count, and of memory the pages that belong to no file; the PSS beside varies with other load. The exit code is 1
on any violation.

    python bench/soak.py [--runs 10000] [--tier strict] [--quick] [--json FILE]
"""

import argparse
import importlib
import itertools
import json
import math
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray._private.ray_constants import RAY_WORKER_NICENESS

from sia_core.domain.harness import Harness
from sia_core.domain.rollout import Rollout, Unit
from sia_core.domain.task import Task
from sia_core.engine.fanout import Engine, EngineConfig
from sia_core.engine.sandbox.inside import tree
from sia_core.engine.sandbox.watchdog import pss_mb
from sia_core.policy.scripted import ScriptedPolicy

_ATTACKS = 0.05
_SAMPLES = 60
_HONEST = 100
"""Number of honest problems."""
_ALLOWED = {
    "anonymous_mb": 3.0,
    "pss_mb": math.inf,
    "ray_pss_mb": math.inf,
    "ray_anonymous_mb": 20.0,
    "ray_descriptors": 8.0,
}
"""Allowed growth over a quarter: allocators settle, and Ray keeps a history of 10,000 tasks, at 6 kB each."""
_OWN = ("inherited descriptors", "sockets in frames", "daemon")
"""Attacks that wait, or that say nothing about a harness, which has its own descriptors for stream and event loop."""
_FILES = {
    "task.toml": """
name = "soak"
title = "soak"
metric = "worth"
[limits]
seconds = 30.0
memory_mb = 256
disk_mb = 4
""",
    "task.py": """
import json
from pathlib import Path
from sia_core.domain.rollout import Verdict
from sia_core.domain.task import Problem

ATTACKS = json.loads((Path(__file__).parent / "attacks.json").read_text())


def load(split):
    honest = [Problem(f"honest-{n}", split, {"number": n}, {"n.txt": str(n).encode()}) for n in range(100)]
    return honest + [Problem(name, split, {"attack": text}) for name, text in ATTACKS.items()]


def verify(problem, answer, lab):
    if "attack" in problem.public or not isinstance(answer, list) or len(answer) != 2:
        return Verdict(0.0, valid=False)
    n = problem.public["number"]
    return Verdict("abcdefgh".index(answer[0]) / 8 if answer[1] == f"{n * n} ['main.py', 'n.txt']" else 0.0)
""",
    "harness/harness.toml": 'name = "soak"\n',
    "harness/agent.py": """
import sys

PROGRAM = "import os; print(int(open('n.txt').read()) ** 2, sorted(os.listdir()))"


async def solve(problem, ctx):
    if "attack" in problem:
        sys.stdout = sys.stderr  # Its end is in the record.
        exec(compile(problem["attack"], "attack", "exec"), {"__name__": "__main__"})
        return "attacked"
    letter = await ctx.choose("Which?", list("abcdefgh"))
    done = await ctx.run(PROGRAM)
    return [letter, done["stdout"].strip()]
""",
}


@dataclass
class Watch:
    """Counts that are taken while rollouts run, and errors found."""

    every: int
    done: int = 0
    known: set[int] = field(default_factory=set)
    """Processes of the last sample; those found again outlive a rollout."""
    scores: dict[str, float | None] = field(default_factory=dict)
    """Scores of honest units, by key of the unit."""
    wrong: list[str] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    samples: list[dict[str, float]] = field(default_factory=list)

    def take(self, rollout: Rollout) -> None:
        """Judge one record."""
        honest = rollout.unit.problem.startswith("honest-")
        self.kinds["honest" if honest else "attack"] += 1
        if honest:
            self.scores[rollout.unit.key] = rollout.score
        failed = rollout.failure is not None
        if (honest and (failed or rollout.score is None)) or (not honest and rollout.score != 0.0):
            self.wrong.append(f"{rollout.unit.problem}: score {rollout.score}, {rollout.failure}")
        if not honest and "GOT" in "".join(rollout.notes):
            self.wrong.append(f"{rollout.unit.problem}: got it: {rollout.notes[-1][-200:]!r}")
        if self.done % self.every == 0:
            sample, self.known = _sample(self.known)
            self.samples.append(sample)
        self.done += 1

    def ends(self) -> dict[str, dict[str, float]]:
        """Return the lowest counts of the first quarter without its first sample, of the third, and of the last."""
        quarter = max(2, len(self.samples) // 4)
        parts = {
            "first": self.samples[1 : quarter + 1],
            "third": self.samples[-2 * quarter : -quarter],
            "last": self.samples[-quarter:],
        }
        return {end: {key: min(s[key] for s in some) for key in some[0]} for end, some in parts.items()}


def _table() -> Any:
    """Load the tests' attacks, which are not part of the installed package."""
    root = Path(__file__).resolve().parents[1]
    sys.path.insert(0, str(root))
    try:
        names = ("attack", "suite", "scene")
        return [importlib.import_module(f"tests.engine.sandbox.attacks.{name}") for name in names]
    except ModuleNotFoundError as error:
        raise SystemExit(f"{root}/tests is missing ({error}): run this from a checkout of the repository") from error


def _programs(mode: str, names: dict[str, str]) -> dict[str, str]:
    """Return the attacks, each followed by a search for its traces, without those that wait for a timeout."""
    attack, suite, _ = _table()
    found = {}
    for one in suite.attacks_for(mode):
        if one.limits.keys() & {"wall_s", "cpu_s"} or one.name in _OWN:
            continue
        for kind, program in (("attack", one.program), ("look", one.look)):
            if program:
                found[f"{kind} {one.name}"] = f"{attack.PRELUDE}\n{_named(program, names)}"
    return found


def _named(program: str, names: dict[str, str]) -> str:
    for name, text in names.items():
        program = program.replace(f"@{name}@", text)
    return program


def _sample(known: set[int]) -> tuple[dict[str, float], set[int]]:
    """Count resources of rollout workers and their descendants, without Ray's own; return counts and processes."""
    own, now = os.getpid(), tree.tasks()
    family = {own, *tree.below(own, now)}
    players = {pid for pid in family if b"RolloutActor" in _command(pid)}
    ours = players.union(*(tree.below(pid, now) for pid in players))
    ray = family - ours
    lasting = ours & known
    counts = {
        "descriptors": sum(map(_descriptors, lasting)),
        "anonymous_mb": sum(map(_anonymous_mb, lasting)),
        "pss_mb": sum(map(_pss_mb, ours)),
        "processes": len(lasting),
        "ray_descriptors": sum(map(_descriptors, ray)),
        "ray_anonymous_mb": sum(map(_anonymous_mb, ray)),
        "ray_pss_mb": sum(map(_pss_mb, ray)),
        "ray_processes": len(ray),
        "mounts": len(Path("/proc/self/mounts").read_text().splitlines()),
        "shm_files": sum(1 for _ in Path("/dev/shm").iterdir()),
        "temporary_files": sum(1 for _ in Path(tempfile.gettempdir()).glob("sia-*")),
    }
    return counts, family


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _pss_mb(pid: int) -> float:
    try:
        return pss_mb(pid)
    except OSError:  # a rollout that has just ended
        return 0.0


def _anonymous_mb(pid: int) -> float:
    """Measure the pages that belong to no file, in MB, which a memory leak increases."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("Anonymous:")), 0.0)


def _descriptors(pid: int) -> int:
    try:
        return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:  # it has just ended, or is another user's
        return 0


def _units(task: Task, harness: Harness, runs: int, attacks: Sequence[str]) -> list[Unit]:
    dice, turns = random.Random(0), itertools.cycle(attacks)
    problems = [next(turns) if dice.random() < _ATTACKS else f"honest-{n % _HONEST}" for n in range(runs)]
    return [
        Unit(task.digest, harness.digest, ScriptedPolicy.digest, None, "train", problem, number, task.sampling)
        for number, problem in enumerate(problems)
    ]


def _play(task: Task, harness: Harness, tier: Any, units: Sequence[Unit]) -> Watch:
    watch = Watch(max(1, len(units) // _SAMPLES))
    with Engine(EngineConfig("scripted", tier, 1), task, print) as engine:
        for rollout in engine.run(_warned(units), harness, None):
            watch.take(rollout)
    return watch


def _warned(units: Sequence[Unit]) -> Iterator[Unit]:
    """Yield the units, and print progress now and then."""
    for number, unit in enumerate(units):
        if number and number % 1000 == 0:
            print(f"  {number} of {len(units)} given out", file=sys.stderr)
        yield unit


def soak(tier: Any, runs: int) -> dict[str, Any]:
    """Play everything twice, once with attacks; return errors, and the counts of three quarters."""
    began = time.monotonic()
    _, _, scenes = _table()
    with scenes.scene() as names, tempfile.TemporaryDirectory() as folder:
        attacks = _programs(tier, names)
        for name, text in {**_FILES, "attacks.json": json.dumps(attacks)}.items():
            (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
            (Path(folder) / name).write_text(text)
        task = Task.load(folder)
        harness = Harness.load(task.path / "harness")
        units = _units(task, harness, runs, list(attacks))
        mixed = _play(task, harness, tier, units)
        alone = _play(task, harness, tier, [unit for unit in units if unit.problem.startswith("honest-")])
    changed = [key for key, score in alone.scores.items() if mixed.scores.get(key) != score]
    ends = mixed.ends()
    grown = [key for key, value in ends["last"].items() if value > ends["third"][key] + _ALLOWED.get(key, 0.0)]
    wrong = [*mixed.wrong, *alone.wrong, *(f"score of {key[:12]} changed" for key in changed)]
    seconds = time.monotonic() - began
    return {
        "runs": runs,
        **mixed.kinds,
        "kinds": len(attacks),
        "seconds": seconds,
        "wrong": wrong,
        "grown": grown,
        "samples": mixed.samples,
        **ends,
    }


def main() -> None:
    # Ray would run its workers at 15, where an attack that lowers its own priority looks like its trace.
    os.environ[RAY_WORKER_NICENESS] = "0"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--tier", choices=("strict", "landlock"), default="strict")
    parser.add_argument("--quick", action="store_true", help="400 rollouts")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers there")
    options = parser.parse_args()
    report = soak(options.tier, 400 if options.quick else options.runs)
    print(f"{report['honest']} honest rollouts and {report['attack']} attacks of {report['kinds']} kinds;", end=" ")
    print(f"the honest ones again, alone: {report['seconds']:.0f} s in all")
    ends = ("first", "third", "last")
    print(f"{'lowest in quarter':18}" + "".join(f"{end:>9}" for end in ends))
    for key in report["first"]:
        print(f"{key:18}" + "".join(f"{report[end][key]:9.1f}" for end in ends))
    for line in (*report["wrong"][:20], *(f"{key} has grown" for key in report["grown"])):
        print(f"FAILED {line}")
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    raise SystemExit(bool(report["wrong"] or report["grown"]))


if __name__ == "__main__":
    main()
