"""Measure programs per second of the zygote against cold starts, as ratios from one run, and their memory.

Three ways run the same small numpy program: a `strict` sandbox (zygote), bubblewrap with a fresh interpreter each time,
and a plain subprocess. Ways take turns in rounds, so that a change of load reaches all of them: compare the ratios, not
the rates. Memory is the proportional share (PSS) of one more program that has done its work and waits, beside others
like it. The goals, on two quiet cores: 150 runs a second, and 10 times cold bubblewrap.

    python bench/sandbox.py [--quick] [--json FILE]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from sia_core.domain.lab import Limits
from sia_core.engine.sandbox import Sandbox, open_sandbox
from sia_core.engine.sandbox.bubblewrap import find_bubblewrap
from sia_core.engine.sandbox.inside import tree
from sia_core.engine.sandbox.watchdog import pss_mb

_PROGRAM = "import numpy as np\nprint(int(np.arange(5).sum()))"
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
Way = Callable[[], str]


def _strict(sandbox: Sandbox) -> str:
    return sandbox.run({"main.py": _PROGRAM.encode()}, Limits()).stdout


def _cold(prefix: Sequence[str]) -> str:
    command = [*prefix, sys.executable, "-I", "-c", _PROGRAM]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=_ONE_THREAD).stdout


def _rate(ways: Sequence[Way], runs: int) -> float:
    """Measure programs per second with one thread for each of `ways`."""
    threads = [threading.Thread(target=_repeat, args=(way, runs)) for way in ways]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return runs * len(ways) / (time.perf_counter() - began)


def _repeat(way: Way, runs: int) -> None:
    for _ in range(runs):
        if way() != "10\n":
            raise RuntimeError("a program gave the wrong answer")


def _memory(live: int) -> dict[str, float]:
    """Measure the PSS in MB of an idle zygote, and of each of `live` concurrent programs."""
    sandboxes = [open_sandbox(modules=("numpy",)) for _ in range(live)]
    zygotes = [set(tree.below(box.start().pid, tree.tasks())) for box in sandboxes]  # type: ignore[attr-defined]
    idle = statistics.median(sum(map(pss_mb, zygote)) for zygote in zygotes)
    program = {"main.py": f"{_PROGRAM}\nimport time\ntime.sleep(2)".encode()}
    threads = [threading.Thread(target=box.run, args=(program, Limits())) for box in sandboxes]
    for thread in threads:
        thread.start()
    time.sleep(1)
    now = tree.tasks()
    rollouts = [tree.below(box.start().pid, now) - zygote for box, zygote in zip(sandboxes, zygotes, strict=True)]  # type: ignore[attr-defined]
    each = statistics.median(sum(map(pss_mb, rollout)) for rollout in rollouts)
    alone = statistics.median(sum(_private_mb(pid) for pid in rollout) for rollout in rollouts)
    for thread in threads:
        thread.join()
    for box in sandboxes:
        box.close()
    return {"idle zygote, PSS (MB)": idle, "live rollout, PSS (MB)": each, "live rollout, its own pages (MB)": alone}


def _private_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


def measure(rounds: int, runs: int) -> dict[str, float]:
    """Measure the median rate of each way, two at a time, and the ratios to the zygote."""
    sandboxes = [open_sandbox(modules=("numpy",)) for _ in range(2)]
    bwrap = [find_bubblewrap(), "--ro-bind", "/", "/", "--dev", "/dev", "--unshare-pid", "--unshare-net", "--"]
    ways: dict[str, tuple[list[Way], int]] = {
        "strict": ([lambda box=box: _strict(box) for box in sandboxes], runs),  # type: ignore[misc]
        "strict, one sandbox": ([lambda: _strict(sandboxes[0])], runs),
        "cold bubblewrap": ([lambda: _cold(bwrap)] * 2, max(2, runs // 10)),
        "plain subprocess": ([lambda: _cold(())] * 2, max(2, runs // 10)),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, (group, count) in ways.items():
            rates[name].append(_rate(group, count))
    for sandbox in sandboxes:
        sandbox.close()
    medians = {f"{name} (runs/s)": statistics.median(values) for name, values in rates.items()}
    for name in ("cold bubblewrap", "plain subprocess"):
        pairs = zip(rates["strict"], rates[name], strict=True)
        medians[f"strict / {name}"] = statistics.median(mine / other for mine, other in pairs)
    return medians


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few seconds, less exact")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers there")
    options = parser.parse_args()
    numbers = measure(*((3, 40) if options.quick else (7, 150))) | _memory(4)
    for name, value in numbers.items():
        print(f"{name:34} {value:8.1f}")
    if options.json:
        record = {"cpus": os.cpu_count(), "load": os.getloadavg()[0], **numbers}
        options.json.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
