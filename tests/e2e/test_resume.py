"""Kill -9 at several moments; the resumed run ends as the undisturbed one does."""

import json
import os
import random
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import TOY, Sia, processes_of

RUN = ("run", str(TOY), "--policy", "scripted", "--no-ui", "--seed", "3")
KILLS = 2
LAST = 30
"""Rollouts before the end after which a kill might come too late."""


def outcome(sia: Sia) -> dict[str, Any]:
    """Candidates, scores, decisions: everything that must not depend on interruptions."""
    run = sia.run()
    nodes = [node.to_dict() for node in run.nodes()]
    for node in nodes:
        del node["cost"]["seconds"]
    rollouts = {
        f"{generation.index}/{name}": [(rollout.unit.key, rollout.score) for rollout in generation.rollouts(name)]
        for generation in run.generations()
        for name in ("train", "gate_parent", "gate_child")
        if generation.get_bytes(f"rollouts/{name}.parquet") is not None  # No gate for a rewrite that was rejected.
    }
    found: dict[str, Any] = json.loads(json.dumps({"nodes": nodes, "rollouts": rollouts, "test": run.phase("test")}))
    return found


@pytest.mark.timeout(600)
def test_kill_and_resume(sia: Sia, tmp_path: Path) -> None:
    # A home of its own, not one moved away: MLflow keeps stores open by address, and would go on reading it.
    home = Path(shutil.copytree(sia.home, tmp_path / "undisturbed"))
    undisturbed = Sia(home, {**sia.environment, "SIA_HOME": str(home)})
    undisturbed(*RUN)
    expected = outcome(undisturbed)
    total = rollouts_done(undisturbed)

    process = sia.start(*RUN)
    for moment in sorted(random.Random(0).sample(range(1, total - LAST), KILLS)):
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


def test_ctrl_c_leaves_a_resumable_run_and_says_how(sia: Sia) -> None:
    process = sia.start(*RUN)
    wait_until(lambda: rollouts_done(sia) >= 20)
    os.kill(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    run = sia.run()
    assert process.returncode == 130, output
    assert f"sia resume {run.name}" in output
    assert "Traceback" not in output
    assert run.status == "KILLED"
    assert "sealed test" in sia("resume", run.name, "--no-ui")


def test_two_holders_of_one_run(sia: Sia) -> None:
    process = sia.start(*RUN)
    wait_for_lock(sia)
    name = sia.run().name
    assert f"is being run by process {process.pid}" in sia("resume", name, "--no-ui", code=7)
    assert process.wait(timeout=240) == 0


def rollouts_done(sia: Sia) -> int:
    """Records in the journal of the only run of this home."""
    for journal in (sia.home / "runs").glob("*/journal.db"):
        with (
            sqlite3.connect(f"file:{journal}?mode=ro", uri=True) as database,
            suppress(sqlite3.OperationalError),
        ):
            (count,) = database.execute("SELECT count(*) FROM rollouts").fetchone()
            return int(count)
    return 0


def wait_until(reached: Callable[[], bool], seconds: float = 180) -> None:
    """Poll, fast enough to hit a moment within a phase."""
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


def wait_for_lock(sia: Sia) -> None:
    """Wait until the run is held."""
    wait_until(lambda: any(file.stat().st_size for file in (sia.home / "runs").glob("*/lock")))
