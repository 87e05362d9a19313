"""Thousands of programs through one sandbox, one in twenty an attack: does anything grow, or change?

Honest programs are compared with what they must print and leave; attacks come from the table of
the tests, in turn, and must fail. Descriptors, memory (PSS, supervisor and zygote), processes, mounts and
files in /dev/shm and TMPDIR are counted all along: the median of the last tenth must be that of the first. The
exit code is 1 when it is not, or when any program ended otherwise than it must.

    python bench/soak.py [--runs 10000] [--tier strict] [--quick] [--json FILE]
"""

import argparse
import importlib
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sia_core.engine.sandbox import Sandbox, open_sandbox
from sia_core.engine.sandbox.inside import tree
from sia_core.engine.sandbox.watchdog import pss_mb
from sia_core.lab import Limits

_ATTACKS = 0.05
_ALLOWED = {"pss_mb": 6.0, "own_pages_mb": 4.0}
"""Growth that is allowed, of what is not counted in whole things: allocators and caches settle."""
_HONEST = """
import json, numpy, os
rng = numpy.random.default_rng({seed})
total = int(rng.integers(0, 1000, 100).sum())
json.dump([total, sorted(os.listdir())], open("out.json", "w"))
print(total)
"""


def _table() -> Any:
    """The tests' attacks; they are no part of the installed package."""
    root = Path(__file__).resolve().parents[1]
    sys.path.insert(0, str(root))
    try:
        return [importlib.import_module(f"tests.engine.sandbox.attacks.{name}") for name in ("suite", "scene")]
    except ModuleNotFoundError as error:
        raise SystemExit(f"{root}/tests is missing ({error}): run this from a checkout of the repository") from error


def _expected(seed: int) -> int:
    return int(np.random.default_rng(seed).integers(0, 1000, 100).sum())


def _honest(sandbox: Sandbox, seed: int) -> str:
    """Empty, or how the result differs from what it must be."""
    limits = Limits(wall_s=30, memory_mb=256, disk_mb=4)
    result = sandbox.run({"main.py": _HONEST.format(seed=seed).encode()}, limits, collect=["out.json"])
    total = _expected(seed)
    right = json.dumps([total, ["main.py"]]).encode()
    if (result.status, result.stdout, result.files) == ("ok", f"{total}\n", {"out.json": right}):
        return ""
    return f"seed {seed}: {result.status} {result.reason} {result.stdout!r} {dict(result.files)}"


def _own_pages_mb(pid: int) -> float:
    """Memory that no other process shares: unlike PSS, it does not move with the rest of the machine."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


def _sample() -> dict[str, float]:
    own = os.getpid()
    family = [own, *tree.below(own, tree.tasks())]
    return {
        "descriptors": sum(1 for _ in Path("/proc/self/fd").iterdir()),
        "pss_mb": sum(map(pss_mb, family)),
        "own_pages_mb": sum(map(_own_pages_mb, family)),
        "processes": len(family),
        "mounts": len(Path("/proc/self/mounts").read_text().splitlines()),
        "shm_files": sum(1 for _ in Path("/dev/shm").iterdir()),
        "temporary_files": sum(1 for path in Path(tempfile.gettempdir()).glob("sia-*")),
    }


def _attacks(sandbox: Sandbox, mode: str, names: dict[str, str], suite: Any) -> Iterator[str]:
    """Endlessly: empty, or what an attack achieved. Without those that wait for a limit of time."""
    quick = [a for a in suite.attacks_for(mode) if not a.limits.keys() & {"wall_s", "cpu_s"} and a.name != "daemon"]
    while True:
        for attack in quick:
            ended = suite.judge(sandbox, attack, mode, names)
            yield "" if ended == suite.HELD else f"attack {attack.name!r}: {ended}"


def soak(tier: Any, runs: int, sandbox: Sandbox) -> dict[str, Any]:
    """Run everything; what went wrong, and the counts of the first and of the last tenth."""
    suite, scene = _table()
    wrong, kinds, samples = list[str](), Counter[str](), list[dict[str, float]]()
    dice = random.Random(0)
    began = time.monotonic()
    with scene.scene() as names:
        attacks = _attacks(sandbox, tier, names, suite)
        for number in range(runs):
            kind = "attack" if dice.random() < _ATTACKS else "honest"
            kinds[kind] += 1
            fault = next(attacks) if kind == "attack" else _honest(sandbox, number)
            if fault:
                wrong.append(fault)
            if number % max(1, runs // 200) == 0:
                samples.append(_sample())
    tenth = max(1, len(samples) // 10)
    ends = {"first": samples[1 : tenth + 1], "last": samples[-tenth:]}
    medians = {end: {key: statistics.median(s[key] for s in some) for key in some[0]} for end, some in ends.items()}
    grown = [key for key, value in medians["last"].items() if value > medians["first"][key] + _ALLOWED.get(key, 0.0)]
    seconds = time.monotonic() - began
    return {"runs": runs, **kinds, "seconds": seconds, "wrong": wrong, "grown": grown, **medians}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--tier", choices=("strict", "landlock"), default="strict")
    parser.add_argument("--quick", action="store_true", help="500 runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers there")
    options = parser.parse_args()
    sandbox = open_sandbox(options.tier, modules=("numpy",))
    report = soak(options.tier, 500 if options.quick else options.runs, sandbox)
    sandbox.close()
    print(f"{report['honest']} honest programs and {report['attack']} attacks in {report['seconds']:.0f} s")
    for key, value in report["first"].items():
        print(f"{key:18} first tenth {value:8.1f}   last tenth {report['last'][key]:8.1f}")
    for line in (*report["wrong"][:20], *(f"{key} has grown" for key in report["grown"])):
        print(f"FAILED {line}")
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    raise SystemExit(bool(report["wrong"] or report["grown"]))


if __name__ == "__main__":
    main()
