"""Invalid input is answered with the error, its place, the next command and an exit code."""

import shutil
import socket
from pathlib import Path

import pytest

from tests.e2e.conftest import TOY, Sia


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("run", "nosuch"), 2, ("unknown task 'nosuch'", "denoising", "task.toml")),
        (("run", str(TOY), "--policy", "gpt"), 2, ("unknown policy 'gpt'", "smollm2")),
        (("run", str(TOY), "--agent", "oracle"), 2, ("unknown agent 'oracle'", "rules")),
        (("run", str(TOY), "--levers", "harness,prayer"), 2, ("unknown lever 'prayer'", "weights")),
        (("run", str(TOY), "--generations", "0"), 2, ("--generations", "greater than or equal to 1")),
        (("run", str(TOY), "--sandbox", "leaky"), 2, ("unknown sandbox tier 'leaky'", "strict")),
        (("resume", "nosuch"), 7, ("unknown run 'nosuch'", "sia status")),
        (("status", "nosuch"), 7, ("unknown run 'nosuch'", "sia status")),
    ],
)
def test_invalid_arguments_are_refused(sia: Sia, arguments: tuple[str, ...], code: int, words: tuple[str, ...]) -> None:
    found, output = sia.fails(*arguments)
    assert found == code, output
    assert all(word in output for word in words), output
    assert "Traceback" not in output


def test_error_of_the_command_is_printed_without_traceback(sia: Sia) -> None:
    output = sia("run", "nosuch", code=2)
    assert output.startswith("sia: unknown task 'nosuch'")
    assert "\n  next: " in output
    assert "Traceback" not in output


def _toy(tmp_path: Path, name: str, old: str, new: str) -> str:
    copy = tmp_path / "task"
    shutil.copytree(TOY, copy)
    file = copy / name
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
    return str(copy)


@pytest.mark.parametrize(
    ("name", "old", "new", "code", "words"),
    [
        ("task.toml", 'name = "toy"', "name = ", 3, ("task.toml", "not TOML")),
        ("task.toml", "rollouts = 4", "rollouts = 'four'", 3, ("task.toml", "plan.rollouts")),
        ("task.toml", "[plan]", "[plans]", 3, ("task.toml", "plans", "did you mean 'plan'")),
        ("task.toml", "[update]", "[update]\nalgorithm = 'magic'", 3, ("task.toml", "algorithm 'magic'", "dr_grpo")),
        ("task.py", "def verify", "def judge", 3, ("task.py", "no function verify()")),
        ("task.py", "import Problem", "import Puzzle", 3, ("task.py", "fails to import")),
        ("harness/harness.toml", "value = 1", "value = 'one'", 4, ("harness.toml", "attempts")),
        ("harness/harness.toml", 'name = "toy"', "[name", 4, ("harness.toml", "not TOML")),
        ("harness/harness.toml", "agent.py", "missing.py", 4, ("missing.py",)),
    ],
)
def test_broken_task_files_are_named(
    sia: Sia, tmp_path: Path, name: str, old: str, new: str, code: int, words: tuple[str, ...]
) -> None:
    found, output = sia.fails("run", _toy(tmp_path, name, old, new), "--policy", "scripted", "--no-ui")
    assert found == code, output
    assert all(word in output for word in words), output
    assert "Traceback" not in output


def test_home_that_cannot_be_written_is_named(sia: Sia, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    blocked = Sia(sia.home, {**sia.environment, "SIA_HOME": str(tmp_path / "file" / "home")})
    output = blocked("run", str(TOY), "--policy", "scripted", "--no-ui", code=7)
    assert "SIA_HOME" in output
    assert "Traceback" not in output


def test_port_that_is_taken_is_named(sia: Sia) -> None:
    environment = {name: value for name, value in sia.environment.items() if name != "PREFECT_API_URL"}
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        output = Sia(sia.home, environment)("ui", "--prefect-port", port, code=8)
    assert f"port {port} is already taken" in output
    assert "--prefect-port" in output


def test_run_without_a_sandbox_is_refused(sia: Sia) -> None:
    path = str(Path(shutil.which("python3") or "/usr/bin/python3").parent)
    hidden = Sia(sia.home, {**sia.environment, "SIA_BWRAP": "/nonexistent/bwrap", "PATH": path})
    output = hidden("run", str(TOY), "--policy", "scripted", "--no-ui", code=6)
    assert "bubblewrap" in output
    assert "next:" in output
    assert "Traceback" not in output


def test_model_file_with_the_wrong_hash_is_refused(sia: Sia) -> None:
    base = sia.home / "models" / "smollm2-135m-instruct"
    base.mkdir(parents=True)
    (base / "config.json").write_text("{}")
    (base / "model.safetensors").write_bytes(b"other weights")
    (base / "source.json").write_text('{"weights": "0000"}')
    output = sia("run", str(TOY), "--policy", "smollm2", "--no-ui", code=5)
    assert "expected sha256 0000, found" in output
    assert f"rm -r {base}" in output
    assert "Traceback" not in output
