"""Run an imported grader in its own process, outside every sandbox, and read one score.

If you import a task, you trust its grader as you trust a task.py. The grader is benign, but need not behave: it reads
text that a model wrote, may print, hang, use too much memory, or keep state. Each verdict therefore gets a fresh
process, its own directory, an environment without keys, and limits on time and memory. Code that a model wrote never
runs here.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sia_core.domain.errors import TaskError

GRADER = Path(__file__).parent / "grader.py"
_TAIL = 300


@dataclass(frozen=True)
class Graded:
    """Result of a grader: metrics, or why it refused the submission."""

    metrics: dict[str, float]
    refused: str = ""
    """Reason why the submission is malformed; empty if it was graded."""


def grade(job: dict[str, Any], folder: Path, *, seconds: float, memory_mb: int) -> Graded:
    """Run one job of `grader.py` in `folder`.

    A grader that crashes, hangs or runs out of memory on a submission refuses it: submissions come from models, and a
    sound grader would report the error itself. `sia check` tests a grader with correct answers.
    """
    out, file = folder / "_score.json", folder / "_job.json"
    file.write_text(json.dumps({**job, "out": str(out), "memory_mb": memory_mb}))
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "TZ") if name in os.environ}
    environment = {**kept, "HOME": str(folder), "PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-s", "-P", "-B", str(GRADER), str(file)],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=(folder / "_stderr").open("wb"),
        start_new_session=True,
    )
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        return Graded({}, f"the grader did not end within {seconds:g} s")
    finally:
        _end(process)
    if code or not out.is_file():
        last = ((folder / "_stderr").read_text(errors="replace").strip().splitlines() or [""])[-1]
        return Graded({}, f"the grader failed: {last[-_TAIL:] or f'exit code {code}'}")
    return _read(json.loads(out.read_text()))


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the grader's process with all that it started, and wait for the process to end."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _read(found: dict[str, Any]) -> Graded:
    if "refused" in found:
        return Graded({}, str(found["refused"]))
    metrics = {"score": found["score"]} if "score" in found else found["metrics"]
    return Graded({name: float(value) for name, value in metrics.items()})


def pick(metrics: dict[str, float], name: str) -> float:
    """Return the metric that is the score.

    Raises:
        TaskError: the metric is missing.
    """
    if name not in metrics:
        known = ", ".join(sorted(metrics)) or "none"
        raise TaskError(
            f"the grader gave no metric {name!r}", hint=f"it gave: {known}; import again with --metric NAME"
        )
    return metrics[name]


def to_score(value: float, low: float, high: float, *, lower_is_better: bool) -> float:
    """Compute a score within [low, high]: the clipped metric, or 1 / (1 + metric) if lower is better."""
    if lower_is_better:
        value = 1.0 / (1.0 + max(value, 0.0))
    return min(max(value, low), high)
