"""The vLLM server of our own, with a program in vLLM's place: how it is started, and that nothing of it is left."""

import os
import signal
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from sia_core.engine.vllm_server import ServerHandle, ServerOptions, VllmServer, build_command, start_server
from sia_core.errors import PolicyError, UsageError
from sia_core.policy.protocol import EndpointError
from sia_core.policy.registry import load_policy
from tests.factories import ask

KEY = "random-key-55ab"
STAND_IN = (sys.executable, "-m", "tests.wire.stand_in")


@pytest.fixture
def pids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STAND_IN_PIDS", str(tmp_path / "pids"))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    return tmp_path / "pids"


def server(tmp_path: Path, how: str, start_s: float = 60.0) -> VllmServer:
    options = ServerOptions(executable=STAND_IN, extra=("--stand-in", how), start_s=start_s)
    return VllmServer(Path("/models/m"), options, tmp_path / "logs" / "vllm.log", KEY)


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def all_gone(pids: Path, within_s: float = 30.0) -> bool:
    deadline = time.monotonic() + within_s
    while any(running(int(pid)) for pid in pids.read_text().split()):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_the_command_line() -> None:
    command = build_command(
        Path("/models/m"), 8123, ServerOptions(gpus=2, rank=20, context=4096, extra=("--dtype", "half"))
    )
    text = " ".join(command)
    assert text.startswith("vllm serve /models/m --host 127.0.0.1 --port 8123 ")
    for part in (
        "--logprobs-mode processed_logprobs",
        "--generation-config vllm",
        "--enable-lora --max-lora-rank 32",
        "--max-loras 4 --max-cpu-loras 4",
        "--tensor-parallel-size 2",
        "--max-model-len 4096",
        "--dtype half",
    ):
        assert part in text
    assert "key" not in text


@pytest.mark.parametrize("extra", ["--data-parallel-size=2", "-dp", "--api-server-count"])
def test_replicas_are_refused(extra: str) -> None:
    with pytest.raises(UsageError, match="replicas"):
        build_command(Path("/m"), 1, ServerOptions(extra=(extra, "2")))
    with pytest.raises(UsageError, match="rank 600"):
        build_command(Path("/m"), 1, ServerOptions(rank=600))


@pytest.mark.parametrize("how", ["light", pytest.param("stubborn", marks=pytest.mark.slow)])
def test_it_starts_and_ends_with_its_children(
    pids: Path, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = server(tmp_path, how)
    url = held.start()
    assert url.startswith("http://127.0.0.1:") and url.endswith("/v1") and held.alive()
    with urllib.request.urlopen(url.removesuffix("/v1") + "/health") as answer:
        assert answer.status == 200
    assert KEY not in Path(f"/proc/{pids.read_text().split()[0]}/cmdline").read_text() + repr(held)
    if how == "light":
        held.stop()
        assert not held.alive()
    else:
        assert held._guard is not None and held._guard.stdin is not None
        held._guard.stdin.close()  # It is given time to end, then killed.
    assert all_gone(pids, 40)
    held.stop()


def test_a_guard_that_is_ended_ends_the_server(pids: Path, tmp_path: Path) -> None:
    held = server(tmp_path, "light")
    held.start()
    stat = Path(f"/proc/{pids.read_text().split()[0]}/stat").read_text()
    os.kill(int(stat.rpartition(")")[2].split()[1]), signal.SIGTERM)
    assert all_gone(pids)
    held.stop()


def test_a_machine_without_vllm(tmp_path: Path) -> None:
    held = VllmServer(Path("/m"), ServerOptions(executable=("no-such-program",)), tmp_path / "log", KEY)
    with pytest.raises(PolicyError, match="no-such-program") as refused:
        held.start()
    assert "sia[gpu]" in refused.value.hint and not held.alive()
    held.stop()


def test_a_server_that_fails_says_why_without_the_key(pids: Path, tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="no such model") as failed:
        server(tmp_path, "fails").start()
    assert KEY not in str(failed.value) and str(tmp_path) in failed.value.hint
    assert all_gone(pids)


def test_a_server_that_is_never_healthy(pids: Path, tmp_path: Path) -> None:
    held = server(tmp_path, "hangs", start_s=2.0)
    with pytest.raises(EndpointError, match="not healthy within 2 s"):
        held.start()
    assert not held.alive() and all_gone(pids)


@pytest.fixture
def cluster(pids: Path) -> Iterator[None]:
    ray.init(address="local", num_cpus=1, num_gpus=1, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def started(model: Path, tmp_path: Path, how: str) -> ServerHandle:
    options = ServerOptions(executable=STAND_IN, extra=("--stand-in", how), start_s=120.0)
    return start_server(model, options, tmp_path / "vllm.log")


def test_a_policy_on_a_server_held_by_an_actor(
    cluster: None, pids: Path, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = started(tiny_model, tmp_path, "model")
    assert handle.key not in repr(handle)
    policy = load_policy(f"vllm:{tiny_model}@{handle.url}")
    with pytest.raises(PolicyError, match="VLLM_API_KEY was refused"):
        policy.probe()
    monkeypatch.setenv("VLLM_API_KEY", handle.key)
    done = load_policy(f"vllm:{tiny_model}@{handle.url}").sample(ask("Pick:", ["a", "b"]))
    assert done.text in ("a", "b") and done.logprobs
    handle.stop()
    assert all_gone(pids)


def test_a_killed_actor_leaves_nothing(cluster: None, pids: Path, tmp_path: Path) -> None:
    handle = started(Path("/m"), tmp_path, "light")
    ray.kill(handle.actor)
    assert all_gone(pids)


def test_errors_come_out_of_the_actor_as_they_are(cluster: None, tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="no such model"):
        started(Path("/m"), tmp_path, "fails")
