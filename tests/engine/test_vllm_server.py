"""The run's own vLLM server, with a stand-in for vLLM, is started with the right options and leaves no process."""

import os
import signal
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from sia_core.domain.errors import PolicyError, UsageError
from sia_core.engine.vllm_server import ServerOptions, VllmServer, build_command, read_options
from sia_core.policy.protocol import EndpointError

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


def test_server_options_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIA_VLLM", "python -m vllm.entrypoints.cli.main")
    monkeypatch.setenv("SIA_VLLM_GPUS", "0")
    monkeypatch.setenv("SIA_VLLM_ARGS", "--max-model-len 4096 --served-model-name 'my model'")
    command = build_command(Path("/m"), 1, read_options(rank=64))
    assert command[:4] == ["python", "-m", "vllm.entrypoints.cli.main", "serve"]
    assert command[-4:] == ["--max-model-len", "4096", "--served-model-name", "my model"]
    assert command[command.index("--max-lora-rank") + 1] == "64"
    assert "--tensor-parallel-size" not in command
    monkeypatch.setenv("SIA_VLLM_GPUS", "two")
    with pytest.raises(UsageError, match="'two' is not a number of GPUs"):
        read_options(rank=8)


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


def test_command_line_of_vllm_is_built() -> None:
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
def test_several_replicas_are_refused(extra: str) -> None:
    with pytest.raises(UsageError, match="replicas"):
        build_command(Path("/m"), 1, ServerOptions(extra=(extra, "2")))
    with pytest.raises(UsageError, match="rank 600"):
        build_command(Path("/m"), 1, ServerOptions(rank=600))


@pytest.mark.parametrize("how", ["light", pytest.param("stubborn", marks=pytest.mark.slow)])
def test_vllm_server_starts_and_ends_with_its_children(
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


def test_guard_that_is_ended_ends_the_server(pids: Path, tmp_path: Path) -> None:
    held = server(tmp_path, "light")
    held.start()
    stat = Path(f"/proc/{pids.read_text().split()[0]}/stat").read_text()
    os.kill(int(stat.rpartition(")")[2].split()[1]), signal.SIGTERM)
    assert all_gone(pids)
    held.stop()


def test_missing_vllm_is_an_error_with_a_hint(tmp_path: Path) -> None:
    held = VllmServer(Path("/m"), ServerOptions(executable=("no-such-program",)), tmp_path / "log", KEY)
    with pytest.raises(PolicyError, match="no-such-program") as refused:
        held.start()
    assert "sia[gpu]" in refused.value.hint and not held.alive()
    held.stop()


def test_failing_server_states_the_reason_without_the_key(pids: Path, tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="no such model") as failed:
        server(tmp_path, "fails").start()
    assert KEY not in str(failed.value) and str(tmp_path) in failed.value.hint
    assert all_gone(pids)


def test_server_that_is_never_healthy_is_an_error(pids: Path, tmp_path: Path) -> None:
    held = server(tmp_path, "hangs", start_s=2.0)
    with pytest.raises(EndpointError, match="not healthy within 2 s"):
        held.start()
    assert not held.alive() and all_gone(pids)
