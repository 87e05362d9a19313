"""Measure rollouts per second from end to end, against a bare loop and against inspect-ai, in one run.

Every way does the same work for each rollout: one request to a model without cost, one small Python program, one score.

| way | setup |
|---|---|
| engine | Ray workers, gateway, strict sandbox, verifier, scripted policy; the harness runs the program itself |
| engine, program apart | the harness runs the program in a second sandbox, isolated from it |
| engine, grader apart | that with one worker that only verifies |
| bare loop | the same calls in one process, no isolation, the program by exec() |
| inspect-ai | its `mockllm` model and its `local` sandbox (a subprocess, no isolation) |

`engine` has one process per rollout, as inspect-ai has. Ways take turns in rounds, so that a change of load
reaches all of them: compare the ratios, not the rates. inspect-ai has its own virtual environment, which is made at the
first run with the newest version in the package index (or give its Python: --inspect PYTHON).

    python bench/engine.py [--quick] [--json FILE] [--inspect PYTHON]
"""

import argparse
import contextlib
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

from sia_core.domain.harness import Harness
from sia_core.domain.hashing import derive_seed
from sia_core.domain.rollout import Sampling, Unit
from sia_core.domain.task import Task
from sia_core.engine.fanout import Engine, EngineConfig
from sia_core.host.home import home
from sia_core.policy.protocol import Request
from sia_core.policy.scripted import ScriptedPolicy

PROGRAM = "print(sum(range(10)))"
FILES = {
    "task.toml": 'name = "bench"\ntitle = "bench"\nmetric = "share right"\n',
    "task.py": """
from sia_core.domain.rollout import Verdict
from sia_core.domain.task import Problem


def load(split):
    return [Problem(f"{split}-{n}", split, private="45") for n in range(100)]


def verify(problem, answer, lab):
    return Verdict(float(answer == problem.private))
""",
    "harness/harness.toml": 'name = "bench"\n\n[knobs.apart]\nvalue = false\noptions = [false, true]\n',
    "harness/agent.py": f"""
import contextlib
import io


async def solve(problem, ctx):
    await ctx.choose("Which?", ["a", "b", "c"])
    if ctx.knobs["apart"]:
        return (await ctx.run({PROGRAM!r}))["stdout"].strip()
    with contextlib.redirect_stdout(io.StringIO()) as output:
        exec({PROGRAM!r}, {{}})
    return output.getvalue().strip()
""",
}
INSPECT = f"""
import json, sys, time, types
import tiktoken
from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.scorer import exact
from inspect_ai.solver import generate, solver
from inspect_ai.util import sandbox


@solver
def program():
    async def solve(state, generate):
        done = await sandbox().exec([sys.executable, "-c", {PROGRAM!r}])
        state.output.completion = done.stdout.strip()
        return state
    return solve


# It counts tokens by a table that it downloads; words are near enough, and cheaper.
tiktoken.get_encoding = lambda name: types.SimpleNamespace(encode=lambda text, **_: text.split())
count, logs = int(sys.argv[1]), sys.argv[2]
def run(count):
    task = Task(
        dataset=[Sample(input="Which?", target="45") for _ in range(count)],
        solver=[generate(), program()],
        scorer=exact(),
        sandbox="local",
    )
    began = time.perf_counter()
    (log,) = eval(task, model="mockllm/model", display="none", log_dir=logs, max_samples=8, max_subprocesses=8)
    return log, time.perf_counter() - began


run(8)  # its start, which is seconds, is no more counted than the engine's
log, seconds = run(count)
assert log.status == "success", log.error
assert log.results.scores[0].metrics["mean"].value == 1.0
print(json.dumps({{"rate": count / seconds, "version": log.eval.packages["inspect_ai"]}}))
"""


def _write_task(folder: Path) -> Task:
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return Task.load(folder)


def _units(task: Task, harness: Harness, count: int, start: int) -> list[Unit]:
    policy = ScriptedPolicy.digest
    return [
        Unit(task.digest, harness.digest, policy, None, "train", f"train-{n % 100}", start + n, task.sampling)
        for n in range(count)
    ]


def _engine_rate(engine: Engine, task: Task, harness: Harness, count: int, start: int) -> float:
    began = time.perf_counter()
    rollouts = list(engine.run(_units(task, harness, count, start), harness, None))
    rate = count / (time.perf_counter() - began)
    if len(rollouts) != count or any(rollout.score != 1.0 for rollout in rollouts):
        raise RuntimeError("a rollout was lost or scored wrongly")
    return rate


def _bare_rate(task: Task, count: int) -> float:
    policy = ScriptedPolicy()
    began = time.perf_counter()
    for number in range(count):
        problem = task.problem("train", f"train-{number % 100}")
        messages = ({"role": "user", "content": "Which?"},)
        policy.sample(Request(messages, Sampling(), derive_seed(number), None, ("a", "b", "c")))
        with contextlib.redirect_stdout(io.StringIO()) as output:
            exec(PROGRAM, {})  # noqa: S102  (SIA's own line: the baseline without isolation)
        if task.verify(problem, output.getvalue().strip(), None).score != 1.0:  # type: ignore[arg-type]
            raise RuntimeError("wrong score")
    return count / (time.perf_counter() - began)


def _inspect_python(given: str | None) -> str:
    if given:
        return given
    folder = home() / "cache" / "bench-inspect"
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        print(f"installing inspect-ai into {folder} ...", file=sys.stderr)
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "inspect-ai"], check=True, capture_output=True)
        (folder / "ready").touch()
    return str(python)


def _inspect_rate(python: str, count: int) -> tuple[float, str]:
    with tempfile.TemporaryDirectory() as logs:
        done = subprocess.run([python, "-c", INSPECT, str(count), logs], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"inspect-ai failed:\n{done.stderr[-2000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    return float(found["rate"]), str(found["version"])


def measure(rounds: int, count: int, inspect_count: int, inspect: str) -> dict[str, object]:
    """Measure the median rate of each way, and the ratios to the engine."""
    ways = ("engine", "engine, program apart", "bare loop", "inspect-ai local")
    rates: dict[str, list[float]] = {way: [] for way in ways}
    version = ""
    with tempfile.TemporaryDirectory() as folder:
        task = _write_task(Path(folder))
        harness = Harness.load(task.path / "harness")
        apart = harness.with_knobs({"apart": True})
        began = time.perf_counter()
        with Engine(EngineConfig("scripted", "strict", 1), task, print) as engine:
            list(engine.run(_units(task, harness, 1, 10**6), harness, None))
            start_s = time.perf_counter() - began
            workers = len(engine._players.workers)
            list(engine.run(_units(task, apart, 2 * workers, 10**6), apart, None))
            for number in range(rounds):
                rates["engine"].append(_engine_rate(engine, task, harness, count, number * count))
                rates["engine, program apart"].append(_engine_rate(engine, task, apart, count, number * count))
                rates["bare loop"].append(_bare_rate(task, 20 * count))
                rate, version = _inspect_rate(inspect, inspect_count)
                rates["inspect-ai local"].append(rate)
        with Engine(EngineConfig("scripted", "strict", 1, graders=1), task, print) as engine:
            list(engine.run(_units(task, apart, 4, 10**6), apart, None))
            rates["engine, grader apart"] = [_engine_rate(engine, task, apart, count, 10**7)]
    median = {name: statistics.median(found) for name, found in rates.items()}
    return {
        "rollouts_per_s": median,
        "workers": workers,
        "cpus": os.cpu_count(),
        "start_to_first_rollout_s": start_s,
        "overhead_ms_per_rollout_and_worker": 1000 * (workers / median["engine"] - 1 / median["bare loop"]),
        "engine_over_inspect": median["engine"] / median["inspect-ai local"],
        "inspect_ai": version,
    }


def main() -> None:
    """Print the table, and write JSON on request."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="under a minute, once inspect-ai is installed")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--inspect", metavar="PYTHON", help="a Python that has inspect-ai")
    given = parser.parse_args()
    rounds, count, inspect_count = (2, 200, 80) if given.quick else (4, 1000, 300)
    found = measure(rounds, count, inspect_count, _inspect_python(given.inspect))
    rates = found["rollouts_per_s"]
    assert isinstance(rates, dict)
    for name, rate in rates.items():
        print(f"{name:22} {rate:10.1f} rollouts/s")
    print(f"{found['workers']} workers on {found['cpus']} CPUs")
    print(f"first rollout {found['start_to_first_rollout_s']:.1f} s after the start")
    print(f"overhead over the bare loop: {found['overhead_ms_per_rollout_and_worker']:.1f} ms a rollout and worker")
    print(f"engine / inspect-ai {found['inspect_ai']} (local): {found['engine_over_inspect']:.1f}x; goal 4x")
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
