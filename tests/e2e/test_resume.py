"""A run killed by SIGKILL at several moments ends as an undisturbed run once resumed."""

import json
import os
import random
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from sia_core.record.phases import SealedDone
from tests.e2e.conftest import TOY, Finished, Sia, processes_of

LAST = 30
"""Rollouts before the end after which a kill might come too late."""


def outcome(sia: Sia) -> dict[str, Any]:
    """Candidates, scores, decisions: everything that must not depend on interruptions."""
    run = sia.run()
    nodes = [asdict(node) for node in run.nodes()]
    for node in nodes:
        del node["cost"]["seconds"]
    rollouts = {
        f"{generation.index}/{name}": [(rollout.unit.key, rollout.score) for rollout in generation.rollouts(name)]
        for generation in run.generations()
        for name in ("train", "gate_parent", "gate_child")
        if generation.get_bytes(f"rollouts/{name}.parquet") is not None  # No gate for a rewrite that was rejected.
    }
    done = run.phase(SealedDone)
    test = None if done is None else done.model_dump(mode="json")
    found: dict[str, Any] = json.loads(json.dumps({"nodes": nodes, "rollouts": rollouts, "test": test}))
    return found


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kills", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_killed_run_resumes_to_the_same_outcome(sia: Sia, finished: Finished, kills: int) -> None:
    expected, total = outcome(finished.sia), rollouts_done(finished.sia)

    process = sia.start(*finished.words)
    for moment in sorted(random.Random(kills).sample(range(1, total - LAST), kills)):
        while rollouts_done(sia) < moment and process.poll() is None:
            time.sleep(0.005)
        assert process.poll() is None, process.communicate()[0]
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert sia.run().status == "RUNNING"
        process = sia.start("resume", sia.run().name, "--no-ui")
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output

    assert outcome(sia) == expected
    # One record a unit, and no unit that the undisturbed run did not have.
    assert rollouts_done(sia) == total
    wait_until(lambda: not processes_of(sia.home), seconds=20)


@pytest.mark.slow
def test_interrupted_run_is_resumed_unless_held_or_changed(sia: Sia, tmp_path: Path) -> None:
    task = Path(shutil.copytree(TOY, tmp_path / "toy", ignore=shutil.ignore_patterns("__pycache__")))
    options = ("--policy", "scripted", "--no-ui", "--generations", "1", "--levers", "")
    process = sia.start("run", str(task), *options)
    wait_until(lambda: rollouts_done(sia) >= 10)
    os.kill(process.pid, signal.SIGSTOP)  # It holds the run for as long as it is looked at.
    name = sia.run().name
    assert f"is being run by process {process.pid}" in sia("resume", name, "--no-ui", code=7)
    os.kill(process.pid, signal.SIGCONT)

    os.kill(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert f"sia resume {name}" in output
    assert "Traceback" not in output
    assert sia.run().status == "KILLED"

    source = (task / "task.py").read_text()
    (task / "task.py").write_text(source + "\n# changed\n")
    assert "has changed since the run began" in sia("resume", name, "--no-ui", code=7)
    (task / "task.py").write_text(source)
    assert "sealed test" in sia("resume", name, "--no-ui")


def rollouts_done(sia: Sia) -> int:
    """Records in the journal of the only run of this home."""
    for journal in (sia.home / "runs").glob("*/journal.db"):
        with (
            closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as database,
            suppress(sqlite3.OperationalError),
        ):
            (count,) = database.execute("SELECT count(*) FROM rollouts").fetchone()
            return int(count)
    return 0


def wait_until(reached: Callable[[], bool], seconds: float = 600) -> None:
    """Poll fast enough to hit a moment within a phase."""
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)
