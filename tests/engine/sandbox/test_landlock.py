"""The tier `landlock` refuses unfit machines, lists the missing layers, and cleans up after its programs.

Programs must be able to read the interpreter. Where the interpreter of these tests is closed to other
users, the tests of this tier run once more with the system's interpreter, as this user and as nobody.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from sia_core.domain.errors import SandboxError
from sia_core.domain.lab import Limits
from sia_core.engine.sandbox import bare, probe
from sia_core.engine.sandbox.bare import require_landlock
from sia_core.engine.sandbox.inside import tree
from sia_core.engine.sandbox.landlock import LandlockSandbox, missing_layers
from tests.engine.sandbox.conftest import as_nobody, open_interpreter, system_python

_ROOT = Path(__file__).parents[3]
_HERE = [
    "tests/engine/sandbox/test_landlock.py",
    "tests/engine/sandbox/test_lifetime.py",
    "tests/engine/test_session.py",
]

here = pytest.mark.skipif(not open_interpreter(), reason="run with another interpreter, see below")


@pytest.mark.parametrize("version", [0, 2])
def test_refuses_a_kernel_without_landlock_or_with_an_old_one(version: int) -> None:
    with pytest.raises(SandboxError, match="version 3 is needed") as refused:
        require_landlock(version)
    assert refused.value.where == "sandbox tier landlock"
    assert "Linux 6.2" in refused.value.hint


def test_kernel_without_landlock_is_an_infrastructure_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sia_core.engine.sandbox.bare.kernel.landlock_version", lambda: 0)
    result = LandlockSandbox(modules=()).run({"main.py": b""}, Limits())
    assert result.status == "infrastructure" and "no Landlock" in result.reason


def test_refuses_an_interpreter_that_others_cannot_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root's programs run as another user")
    tmp_path.chmod(0o700)
    monkeypatch.setattr("sia_core.engine.sandbox.bare.interpreter.prefixes", lambda: [tmp_path])
    with pytest.raises(SandboxError, match="closed to other users"):
        LandlockSandbox(modules=()).start()


def test_missing_names_every_layer_that_is_absent() -> None:
    absent = {"mount namespace", "pid namespace", "network namespace", "ipc namespace", "user namespace"}
    assert set(missing_layers(7)) == absent
    assert set(missing_layers(3)) - absent == {"landlock network", "landlock devices", "landlock scopes"}


def test_hidden_directories_are_left_out_of_the_readable_ones(tmp_path: Path) -> None:
    for name in ("packages/numpy", "packages/sia_core", "other"):
        (tmp_path / name).mkdir(parents=True)
    packages = tmp_path / "packages"
    # Landlock follows links: a rule for one of these would allow what is hidden.
    for link, target in {"lib64": "packages", "packages/same": "packages/sia_core", "packages/up": "."}.items():
        (tmp_path / link).symlink_to(tmp_path / target)
    (packages / "fine").symlink_to(tmp_path / "other")
    readable, listed = bare._around([packages, tmp_path / "other"], [packages / "sia_core"])
    assert set(readable) == {packages / "numpy", packages / "fine", tmp_path / "other"}
    assert listed == [packages]


def test_shared_directory_is_in_the_readable_paths(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sia_core.engine.sandbox.bare.require_landlock", lambda _version: None)
    monkeypatch.setattr("sia_core.engine.sandbox.bare._require_open_to_others", lambda _paths: None)
    assert str(tmp_path.resolve()) in bare.Bare(None, tmp_path).settings()["readable"]


@here
def test_program_reads_the_shared_directory_and_nothing_beside_it() -> None:
    with tempfile.TemporaryDirectory() as name:
        shared, other = Path(name, "shared"), Path(name, "other")
        for folder in (Path(name), shared, other):
            folder.mkdir(exist_ok=True)
            folder.chmod(0o755)
        for folder in (shared, other):
            (folder / "word").write_text(folder.name)
        sandbox = LandlockSandbox(modules=(), shared=shared)
        try:
            seen = sandbox.run({"main.py": f"print(open('{shared}/word').read())".encode()}, Limits())
            hidden = sandbox.run({"main.py": f"print(open('{other}/word').read())".encode()}, Limits())
            changed = sandbox.run({"main.py": f"open('{shared}/word', 'w')".encode()}, Limits())
        finally:
            sandbox.close()
        assert seen.stdout == "shared\n", seen
        assert "PermissionError" in hidden.reason and "PermissionError" in changed.reason


def test_removes_every_file_that_a_program_made(tmp_path: Path) -> None:
    top = tmp_path / "box"
    top.mkdir()
    deep = top
    for _ in range(15):
        deep /= "d" * 200
        deep.mkdir()
    (deep / "file").write_text("x")
    (top / "closed").mkdir(0)
    (top / "link").symlink_to(tmp_path)
    os.mkfifo(top / "pipe")
    tree.remove(str(top))
    assert list(tmp_path.iterdir()) == []
    tree.remove(str(top))


@here
def test_landlock_self_test_passes() -> None:
    report = probe(tier="landlock", modules=())
    assert report.tier == "landlock"
    assert set(report.probes.values()) == {"works", "blocked"}
    assert "mount namespace" in report.missing


@here
def test_program_directories_are_separate_and_removed() -> None:
    sandbox = LandlockSandbox(modules=())
    try:
        source = b"import os, tempfile\nprint(os.getcwd(), tempfile.mkdtemp())"
        first, second = (sandbox.run({"main.py": source}, Limits()).stdout.split()[0] for _ in range(2))
        assert first != second
        assert not Path(first).exists() and not Path(second).exists()
    finally:
        sandbox.close()
    assert not Path(first).parent.exists()


def _alive_below(root: int) -> set[int]:
    """Descendants that are more than an entry their parent has yet to collect."""
    now = tree.tasks()
    return {pid for pid in tree.below(root, now) if now[pid].state not in "ZX"}


@here
def test_daemons_end_with_their_program() -> None:
    sandbox = LandlockSandbox(modules=())
    daemon = b"import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0: time.sleep(60)"
    try:
        idle = _alive_below(sandbox.start().pid)
        began = time.monotonic()
        assert sandbox.run({"main.py": daemon}, Limits(subprocesses=True)).status == "ok"
        assert _alive_below(sandbox.start().pid) == idle
        assert time.monotonic() - began < 5
    finally:
        sandbox.close()


@pytest.mark.slow
@pytest.mark.skipif(open_interpreter(), reason="these tests run here")
@pytest.mark.parametrize("user", ["self", "nobody"])
def test_tests_pass_with_the_interpreter_of_the_system(user: str) -> None:
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    prefix = as_nobody() if user == "nobody" else []
    environment = {"PYTHONPATH": f"{_ROOT}:{packages}", "PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"}
    select = "landlock and not interpreter_of_the_system and not unprivileged_user"
    command = [*prefix, system_python(), "-m", "pytest", *_HERE, "-q", "-p", "no:cacheprovider", "-k", select]
    done = subprocess.run(command, cwd=_ROOT, env=environment, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0 and "passed" in done.stdout, done.stdout[-3000:] + done.stderr[-1000:]
    assert "see below" not in done.stdout and "no Landlock for this interpreter" not in done.stdout
