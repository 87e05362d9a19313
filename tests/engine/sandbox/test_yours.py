"""Programs read nothing of yours, wherever your interpreter lies: no project, no SIA_HOME, no task, no home."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from sia_core.domain.errors import SandboxError
from sia_core.domain.lab import Limits
from sia_core.engine.sandbox import bubblewrap, interpreter, open_sandbox
from sia_core.engine.sandbox.probes import failures, run_probes

ROOT = Path(__file__).resolve().parents[3]
LOOK = """
import json, sys
from pathlib import Path
from sia_core.domain.lab import Limits
from sia_core.engine.sandbox import bubblewrap, hide, open_sandbox

hide(Path(sys.argv[3]))
tier, names = sys.argv[1], json.loads(sys.argv[2])
if tier == "disk":
    tier, bubblewrap._image = "strict", lambda modules: (None, ())
sandbox = open_sandbox(tier, modules=())
look = '''
for name in NAMES:
    try:
        print(open(name).read())
    except OSError:
        pass
import json, math
print("works")
'''.replace("NAMES", repr(names))
result = sandbox.run({"main.py": look.encode()}, Limits())
print(result.stdout, result.stderr, result.reason)
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose directory is itself a virtual environment, with the packages of this one."""
    place = tmp_path_factory.mktemp("prefix") / "project"
    venv.create(place, with_pip=False, symlinks=True)
    packages = next((place / "lib").glob("python*/site-packages"))
    (packages / "these.pth").write_text(f"{sysconfig.get_path('purelib')}\n{ROOT}\n")
    for one in (*place.parents, place):
        if one.is_relative_to(tmp_path_factory.getbasetemp().parent):
            one.chmod(0o755)
    return place


SECRETS = {
    "beside the interpreter": "secret.txt",
    "in the project": "src/secret.py",
    "in a home": "home/mlflow.db",
    "in a home inside the packages": "lib/home/mlflow.db",
    "in a task inside the packages": "lib/task/task.py",
    "in a directory of the library": "lib/work/secret.txt",
}


@pytest.mark.parametrize("tier", ["strict", "disk", "landlock"])
@pytest.mark.parametrize("home", ["home", "lib/home", "."])
def test_prefix_that_is_a_project_opens_nothing_of_it(
    project: Path, tier: str, home: str, request: pytest.FixtureRequest
) -> None:
    if tier != "landlock":
        request.getfixturevalue("bwrap")
    for name in SECRETS.values():
        (project / name).parent.mkdir(exist_ok=True)
        (project / name).write_text("SECRET")
        (project / name).chmod(0o644)
    names = [str(project / name) for name in SECRETS.values()]
    if home != "lib/home":  # Only what is named as yours is yours among the packages.
        names.remove(str(project / "lib/home/mlflow.db"))
    program = project / "bin" / "python"
    done = subprocess.run(
        [program, "-c", LOOK, tier, json.dumps(names), project / "lib" / "task"],
        cwd=project / "lib" / "work",
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(project.parent),
            "SIA_HOME": str(project / home),
            "TMPDIR": "/tmp",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    if tier == "landlock" and ("no Landlock" in done.stderr or "closed to other users" in done.stderr):
        pytest.skip("no Landlock for this interpreter")
    assert "works" in done.stdout, done
    assert "SECRET" not in done.stdout


def test_self_test_tries_to_read_what_is_yours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").write_text("x")
    monkeypatch.setenv("SIA_HOME", str(tmp_path))
    assert failures(run_probes(open_sandbox("none"), ())).get("read-yours") == "NOT BLOCKED"


def test_place_that_programs_must_read_cannot_be_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    root = interpreter.bound()[0]
    monkeypatch.setattr(interpreter, "_hidden", {root})
    with pytest.raises(SandboxError, match="is private, and programs must read it"):
        interpreter.private(interpreter.bound())


def test_task_below_usr_is_covered(bwrap: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert bwrap
    task = Path("/usr/local/share/sia-test-task")
    if os.geteuid() != 0:
        pytest.skip("only root can write below /usr")
    task.mkdir()
    try:
        (task / "answers.txt").write_text("SECRET")
        monkeypatch.setattr(interpreter, "_hidden", set())
        monkeypatch.setattr(bubblewrap, "_image", lambda _: (None, ()))
        look = f"print(open({str(task / 'answers.txt')!r}).read())".encode()
        with_it = open_sandbox(modules=())
        assert "SECRET" in with_it.run({"main.py": look}, Limits()).stdout, "the positive control"
        interpreter.hide(task)
        without = open_sandbox(modules=())
        assert "SECRET" not in without.run({"main.py": look}, Limits()).stdout
        with_it.close()
        without.close()
    finally:
        shutil.rmtree(task)


def test_working_directory_that_is_gone_stops_nothing(tmp_path: Path) -> None:
    code = "import os; os.rmdir(os.getcwd()); from sia_core.engine.sandbox import interpreter; interpreter.yours()"
    (tmp_path / "gone").mkdir()
    environment = {"PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "gone", env=environment, check=True)
