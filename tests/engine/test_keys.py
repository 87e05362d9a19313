"""A key reaches the policy's process and no other: not a worker, not a sandbox, not Ray's files."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from sia_core.domain.harness import Harness
from sia_core.domain.json_data import write
from sia_core.domain.rollout import Unit
from sia_core.domain.task import Task
from sia_core.engine.fanout import Engine, EngineConfig
from sia_core.engine.keys import without_keys
from sia_core.host.external import SECRETS
from tests.wire.server import Wire, chat, serve

pytestmark = pytest.mark.usefixtures("bwrap")

TOY = Path(__file__).parents[1] / "toy"
KEY = "sk-secret-4f0e9b"
SPY = """
import os, glob
async def solve(problem, ctx):
    seen = dict(os.environ)
    for name in glob.glob("/proc/[0-9]*/environ"):
        try:
            seen[name] = open(name, errors="replace").read()
        except OSError:
            pass
    await ctx.chat("hello")
    await ctx.note(repr(seen)[-3000:])
    return {"colour": repr(seen)}
"""
VERIFY = """

def verify(problem, answer, lab):
    import os
    return Verdict(0.0, feedback=repr([answer, dict(os.environ)]))
"""


def play(url: str, variable: str, tmp_path: Path) -> dict[str, Any]:
    """Play two rollouts and list every place outside their records that holds the key.

    Runs in a process of its own, which joins a cluster with another token than that of the other tests.
    """
    folder = shutil.copytree(TOY, tmp_path / "task")
    with (folder / "task.py").open("a") as file:
        file.write(VERIFY)
    task = Task.load(folder)
    harness = Harness.from_files({**Harness.load(TOY / "harness").files, "agent.py": SPY.encode()})
    said: list[str] = []
    config = EngineConfig(f"openai:m@{url}/v1#{variable}", "strict", 1, folder=tmp_path / "run")
    with Engine(config, task, said.append) as engine:
        units = [
            Unit(task.digest, harness.digest, engine.policy.digest, None, "train", f"train-{n}", 7, task.sampling)
            for n in range(2)
        ]
        rollouts = list(engine.run(units, harness, None))
        session = Path(ray._private.worker._global_node.get_session_dir_path())  # type: ignore[attr-defined]
        places = [*_environments(), *_files(session), *_files(tmp_path), *(line for line in said if KEY in line)]
    assert os.environ[variable] == KEY
    return {"rollouts": list(map(write, rollouts)), "places": places}


def _environments() -> list[str]:
    """Processes that started with the key in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and KEY in process.environ().values():
                found.append(" ".join(process.cmdline()))
        except (psutil.AccessDenied, psutil.NoSuchProcess):
            continue
    return found


def _files(folder: Path) -> list[str]:
    return [str(file) for file in folder.rglob("*") if file.is_file() and KEY.encode() in file.read_bytes()]


@pytest.fixture(params=["OPENAI_API_KEY", pytest.param("MY_OWN_VARIABLE", marks=pytest.mark.slow)])
def variable(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv(request.param, KEY)
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return str(request.param)


@pytest.fixture
def wire() -> Iterator[Wire]:
    with serve() as wire:
        wire.answer = chat("hi")
        yield wire


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A cluster that another process started, without any key."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", 64 * "a")
    names = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "MY_OWN_VARIABLE")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        str(Path(sys.executable).with_name("ray")),
        "start",
        "--head",
        "--block",
        f"--port={port}",
        "--num-cpus=2",
    ]
    # Sockets of Ray need a short path.
    folder = Path(f"/tmp/ray-keys-{os.getpid()}")
    with (tmp_path / "ray.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, f"--temp-dir={folder}", "--include-dashboard=false", "--disable-usage-stats"],
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    deadline = time.monotonic() + 90
    # Its sockets are there some seconds before one can join it.
    while "Ray runtime started" not in (said := (tmp_path / "ray.log").read_text()):
        assert process.poll() is None and time.monotonic() < deadline, said
        time.sleep(0.1)
    yield
    for child in psutil.Process(process.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # Ray ends some when others go.
            child.kill()
    process.kill()
    process.wait()
    shutil.rmtree(folder, ignore_errors=True)


def _check(wire: Wire, variable: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.engine.test_keys", wire.url, variable, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert [headers["authorization"] for _, headers, _ in wire.requests] == [f"Bearer {KEY}"] * 2
    for rollout in found["rollouts"]:
        assert rollout["failure"] is None
        assert "SIA_STREAM" in str(rollout["notes"]) and "PATH" in rollout["verdict"]["feedback"]
    assert KEY not in done.stdout + done.stderr
    assert found["places"] == []


@pytest.mark.slow
def test_keys_stay_secret_on_an_own_cluster(variable: str, wire: Wire, tmp_path: Path) -> None:
    _check(wire, variable, tmp_path)


def test_keys_stay_secret_on_another_users_cluster(variable: str, wire: Wire, elsewhere: None, tmp_path: Path) -> None:
    _check(wire, variable, tmp_path)


def test_passwords_of_servers_stay_with_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SECRETS:
        monkeypatch.setenv(name, KEY)
    with without_keys("scripted"):
        assert KEY not in os.environ.values()
    assert [os.environ[name] for name in SECRETS] == [KEY] * len(SECRETS)


if __name__ == "__main__":
    print(json.dumps(play(sys.argv[1], sys.argv[2], Path(sys.argv[3]))))
