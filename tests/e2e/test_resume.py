"""Kill -9 at many moments; the resumed run ends as the undisturbed one does."""

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from sia_core.record.journal import Journal
from tests.e2e.conftest import TOY, Sia

RUN = ("run", str(TOY), "--policy", "scripted", "--no-ui", "--seed", "3")
KILLS = 3


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
    }
    found: dict[str, Any] = json.loads(json.dumps({"nodes": nodes, "rollouts": rollouts, "test": run.phase("test")}))
    return found


def processes_of(home: Path) -> list[psutil.Process]:
    """Processes that carry this SIA_HOME in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("SIA_HOME") == str(home) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.AccessDenied, psutil.NoSuchProcess):
            continue
    return found


def test_kill_and_resume(sia: Sia, tmp_path: Path) -> None:
    sia(*RUN)
    expected = outcome(sia)
    seconds = _duration(sia)
    shutil.move(sia.home, tmp_path / "undisturbed")

    rng = random.Random(0)
    process = sia.start(*RUN)
    for kill in range(KILLS):
        _wait_for_run(sia, process)
        time.sleep(rng.uniform(0.1, 0.9) * seconds)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
        process.wait()
        if sia.run().status == "FINISHED":
            assert kill > 0, "the run ended before anything was killed"
            break
        process = sia.start("resume", sia.run().name, "--no-ui")
    output, _ = process.communicate(timeout=240)
    if sia.run().status != "FINISHED":
        pytest.fail(output)

    assert outcome(sia) == expected
    undisturbed = next((tmp_path / "undisturbed" / "runs").iterdir())
    with (
        Journal(sia.home / "runs" / sia.run().name / "journal.db") as ours,
        Journal(undisturbed / "journal.db") as other,
    ):
        # One record a unit, and no unit that the undisturbed run did not have.
        assert len(ours) == len(other)
    deadline = time.monotonic() + 20
    while (left := processes_of(sia.home)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not left, [process.cmdline() for process in left]


def test_ctrl_c_leaves_a_resumable_run_and_says_how(sia: Sia) -> None:
    process = sia.start(*RUN)
    _wait_for_run(sia, process)
    time.sleep(4)
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
    _wait_for_run(sia, process)
    name = sia.run().name
    while not (sia.home / "runs" / name / "lock").exists():
        time.sleep(0.1)
    time.sleep(0.5)
    assert f"is being run by process {process.pid}" in sia("resume", name, "--no-ui", code=7)
    assert process.wait(timeout=240) == 0


def _wait_for_run(sia: Sia, process: Any) -> None:
    """Wait until the run is in MLflow."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if list((sia.home / "runs").glob("*/lock")):
            return
        time.sleep(0.2)


def _duration(sia: Sia) -> float:
    info = sia.run().record.client.get_run(sia.run().run_id).info
    return float(info.end_time - info.start_time) / 1000
