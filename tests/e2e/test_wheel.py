"""The built wheel in an environment of its own, outside of the checkout."""

import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from tests.e2e.conftest import make_sia
from tests.infra.test_wheel import ROOT, shipped

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built by pip; hatchling comes from the package index."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "hatchling" in done.stderr and done.returncode:
        pytest.skip("hatchling cannot be fetched")
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("*.whl")
    return built


def test_wheel_holds_every_file(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == shipped()


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`sia` of an environment that holds the wheel and uses the dependencies of the current environment."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(command, check=True, capture_output=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin" / "sia"


def test_installed_wheel_works_outside_of_the_checkout(
    installed: Path, tmp_path: Path, prefect_api: str, empty_store: Path
) -> None:
    environment = make_sia(tmp_path, prefect_api, empty_store).environment
    environment = {name: value for name, value in environment.items() if name != "PYTHONPATH"}
    environment["SIA_DENOISING_DATA"] = "pbmc68k-alone"
    # Where it is called from, packages of the same names lie about.
    for name in ("tasks", "flows", "sia_core"):
        (tmp_path / "work" / name).mkdir(parents=True)
        (tmp_path / "work" / name / "__init__.py").write_text("raise SystemExit('the wrong one')\n")

    def sia(*arguments: str) -> str:
        command = [str(installed), *arguments]
        done = subprocess.run(
            command, env=environment, cwd=tmp_path / "work", capture_output=True, text=True, check=False, timeout=600
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    where = "import sia_core, flows, tasks; print(sia_core.__file__, *tasks.__path__)"
    told = subprocess.run(
        [str(installed.parent / "python"), "-P", "-c", where],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert str(ROOT) not in told.stdout and told.stdout.count(str(installed.parents[1])) == 2

    options = ("--policy", "scripted", "--levers", "", "--generations", "1", "--no-ui")
    output = sia("run", "denoising", *options, "--problems", "2", "--rollouts", "1", "--test-problems", "2")
    assert "sealed test (2 problems" in output
    name = re.findall(r"denoising-[0-9a-f]{6}", output)[0]
    sia("export", name, "winner")
    assert "every rollout scored what the record says" in sia("eval", "winner", "denoising")
    sia("init", "own", "--kind", "classify")
    assert "own is sound" in sia("check", "own")
