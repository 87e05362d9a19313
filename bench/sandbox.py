"""How many programs a second: the zygote against cold starts, as ratios from one run.

Three ways run the same small numpy program: a `strict` sandbox (zygote), bubblewrap with a fresh
interpreter each time, and a plain subprocess. Ways take turns in rounds, so that a change of load on
the machine reaches all of them; read the ratios, not the rates.

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

from sia_core.engine.sandbox import Sandbox, open_sandbox
from sia_core.engine.sandbox.bubblewrap import find_bubblewrap
from sia_core.lab import Limits

_PROGRAM = "import numpy as np\nprint(int(np.arange(5).sum()))"
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
Way = Callable[[], str]


def _strict(sandbox: Sandbox) -> str:
    return sandbox.run({"main.py": _PROGRAM.encode()}, Limits()).stdout


def _cold(prefix: Sequence[str]) -> str:
    command = [*prefix, sys.executable, "-I", "-c", _PROGRAM]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=_ONE_THREAD).stdout


def _rate(ways: Sequence[Way], runs: int) -> float:
    """Programs a second with one thread for each of `ways`."""
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


def measure(rounds: int, runs: int) -> dict[str, float]:
    """Median rate of each way, two at a time, and the ratios to the zygote."""
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
    parser.add_argument("--quick", action="store_true", help="a few seconds, rougher")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers there")
    options = parser.parse_args()
    numbers = measure(*((3, 40) if options.quick else (7, 150)))
    for name, value in numbers.items():
        print(f"{name:32} {value:8.1f}")
    if options.json:
        record = {"cpus": os.cpu_count(), "load": os.getloadavg()[0], **numbers}
        options.json.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
