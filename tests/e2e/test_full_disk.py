"""A run whose disk fills prints the next step, and ends as an undisturbed run once resumed."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.e2e.conftest import TOY, Sia
from tests.e2e.test_endpoint import KEY, answer
from tests.e2e.test_resume import outcome, rollouts_done, wait_until
from tests.wire.server import serve

SIZE_MB = 24
OPTIONS = ("--levers", "harness", "--no-ui", "--seed", "3", "--generations", "1", "--problems", "3", "--rollouts", "2")


@pytest.fixture
def small(sia: Sia, tmp_path: Path) -> Iterator[Sia]:
    """The command line with its SIA_HOME on a small disk."""
    home = tmp_path / "small"
    home.mkdir()
    if (
        os.geteuid() != 0
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={SIZE_MB}m", "tmpfs", str(home)], check=False
        ).returncode
    ):
        pytest.skip("only root can make a small disk")
    shutil.copy(sia.home / "mlflow.db", home)
    yield Sia(home, {**sia.environment, "SIA_HOME": str(home)})
    subprocess.run(["umount", "-l", str(home)], check=True)


def fill(folder: Path) -> Path:
    """Use up every byte."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while file.write(b"x" * size):
                    pass
            except OSError:
                continue
    return ballast


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["scripted", "openai"])
def test_run_resumes_once_the_disk_has_room_again(sia: Sia, small: Sia, policy: str) -> None:
    with serve() as wire:
        wire.answer = answer
        spec = f"openai:m@{wire.url}/v1" if policy == "openai" else policy
        undisturbed, disturbed = (
            replace(one, environment={**one.environment, "OPENAI_API_KEY": KEY}) for one in (sia, small)
        )
        command = ("run", str(TOY), "--policy", spec, *OPTIONS)
        undisturbed(*command)
        paid = len(wire.requests)

        process = disturbed.start(*command)
        wait_until(lambda: rollouts_done(disturbed) >= 20 or process.poll() is not None)
        ballast = fill(disturbed.home)
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 7, output
        run = disturbed.run().name
        assert "the disk is full" in output and str(disturbed.home) in output
        assert f"then: sia resume {run}" in output
        assert "Traceback" not in output

        ballast.unlink()
        disturbed("resume", run, "--no-ui")
        again = len(wire.requests) - paid
    assert outcome(disturbed) == outcome(undisturbed)
    assert paid <= again <= paid + (os.cpu_count() or 1), "replies were paid for twice"
