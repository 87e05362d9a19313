"""infra/worker.sh starts and ends stand-ins for `ray` and `sia` in the right order."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "infra" / "worker.sh"
NODE = """#!/bin/sh
echo "ray $*" >> events
trap 'echo "ray ends" >> events; exit 0' TERM
sleep 0.3
echo "Ray runtime started."
echo "ray is up" >> events
while [ ! -e node-dies ]; do sleep 0.05; done
exit 7
"""
WORKER = """#!/bin/sh
echo "sia $*" >> events
trap 'echo "sia ends" >> events; exit 0' TERM
while [ ! -e worker-dies ]; do sleep 0.05; done
exit 9
"""


@pytest.fixture
def script(tmp_path: Path) -> Callable[..., "subprocess.Popen[str]"]:
    if shutil.which("bash") is None:
        pytest.skip("needs bash")
    for name, text in {"ray": NODE, "sia": WORKER}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)

    def start(**more: str) -> "subprocess.Popen[str]":
        environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "RAY_ADDRESS": "head:6379", **more}
        return subprocess.Popen(
            ["bash", str(SCRIPT), "--limit", "2"], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
        )

    return start


def events(folder: Path) -> list[str]:
    file = folder / "events"
    return file.read_text().splitlines() if file.exists() else []


def wait_for(folder: Path, event: str) -> None:
    deadline = time.monotonic() + 60
    while event not in events(folder):
        assert time.monotonic() < deadline, events(folder)
        time.sleep(0.02)


def test_node_is_up_before_the_worker_starts(script: Callable[..., "subprocess.Popen[str]"], tmp_path: Path) -> None:
    process = script(SIA_RAY_ARGS="--one --two")
    wait_for(tmp_path, "sia worker --limit 2")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    ray = "ray start --block --address=head:6379 --num-cpus=0 --num-gpus=0 --disable-usage-stats --one --two"
    assert events(tmp_path) == [ray, "ray is up", "sia worker --limit 2", "sia ends", "ray ends"]


@pytest.mark.parametrize(("dies", "other", "code"), [("node", "sia ends", 7), ("worker", "ray ends", 9)])
def test_node_and_worker_end_together(
    script: Callable[..., "subprocess.Popen[str]"], tmp_path: Path, dies: str, other: str, code: int
) -> None:
    process = script()
    wait_for(tmp_path, "sia worker --limit 2")
    (tmp_path / f"{dies}-dies").touch()
    process.communicate(timeout=60)
    assert process.returncode == code
    assert other in events(tmp_path)


def test_node_that_does_not_start_ends_the_script(
    script: Callable[..., "subprocess.Popen[str]"], tmp_path: Path
) -> None:
    (tmp_path / "ray").write_text("#!/bin/sh\necho 'no such head'\nexit 3\n")
    process = script()
    _, said = process.communicate(timeout=60)
    assert process.returncode != 0 and "no such head" in said
    assert events(tmp_path) == []


def test_missing_ray_address_ends_the_script(script: Callable[..., "subprocess.Popen[str]"]) -> None:
    process = script(RAY_ADDRESS="")
    _, said = process.communicate(timeout=60)
    assert process.returncode != 0 and "RAY_ADDRESS" in said
