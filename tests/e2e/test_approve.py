"""Approval by a person before a lever is pulled."""

import time
from pathlib import Path

import pytest

from tests.e2e.conftest import Sia, toy_of_two_knobs

OPTIONS = ("--policy", "scripted", "--generations", "2", "--rollouts", "2", "--levers", "harness", "--threads", "1")


def answered(sia: Sia, *options: str) -> str:
    """Answer as soon as the run waits."""
    deadline = time.monotonic() + 120
    while True:
        output = sia("approve", "toy", *options, code=None)
        if "is not waiting for approval" not in output and "unknown run" not in output:
            return output
        assert time.monotonic() < deadline, output
        time.sleep(1)


@pytest.mark.slow
def test_run_waits_for_approval_and_follows_it(sia: Sia, tmp_path: Path) -> None:
    process = sia.start("run", str(toy_of_two_knobs(tmp_path)), "--approve", "--no-ui", *OPTIONS)
    try:
        assert "/1: rejected" in answered(sia, "--reject", "--note", "not on a Friday")
        assert "/2: approved" in answered(sia)
        output, _ = process.communicate(timeout=240)
    finally:
        process.kill()
    assert process.returncode == 0, output
    assert "harness is to be pulled" in output and "sia approve toy-" in output
    _seed, rejected, approved = sia.run().nodes()
    assert rejected.failure == "rejected by a person: not on a Friday" and rejected.gate is None
    assert approved.lever == "harness" and approved.gate is not None


def test_approval_of_an_unknown_run_is_refused(sia: Sia) -> None:
    assert "unknown run 'toy'" in sia("approve", "toy", code=7)
