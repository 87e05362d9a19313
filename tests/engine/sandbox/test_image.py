"""Programs read copies in memory, which hold what they need and nothing else, and are removed at the end."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from sia_core.domain.errors import SandboxError
from sia_core.domain.lab import Limits, SandboxResult
from sia_core.domain.task import Task
from sia_core.engine.sandbox import image as images
from sia_core.engine.sandbox import interpreter, open_sandbox, probe
from sia_core.engine.worker import packages_of

USE = """
import sys
from pathlib import Path
from sia_core.engine.sandbox import image

image.MEMORY = Path(sys.argv[1])
image._image.__wrapped__  # No cache of this process is of use to another.
image.copy(Path(sys.argv[2]))
print("ready", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def made() -> Path:
    """Image for programs that compute."""
    try:
        return images.image(())
    except SandboxError as error:
        pytest.skip(str(error))


@pytest.fixture
def inside(bwrap: str, made: Path) -> Iterator[object]:
    """Run a program in a sandbox with an image."""
    assert bwrap and made.is_dir()
    sandbox = open_sandbox(modules=())

    def run(source: str) -> SandboxResult:
        return sandbox.run({"main.py": source.encode()}, Limits())

    yield run
    sandbox.close()


def test_image_holds_what_programs_import(made: Path) -> None:
    names = {path.name for path in made.rglob("site-packages/*")}
    assert {"numpy", "scipy", "sklearn"} <= names
    assert not {"sia_core", "flows", "tasks", "mlflow", "prefect", "ray", "torch", "scanpy"} & names
    assert (made / sys.executable.lstrip("/")).is_symlink() or (made / sys.executable.lstrip("/")).is_file()


def test_byte_code_stays_valid(made: Path) -> None:
    """Else each program compiles what it imports."""
    module = Path(subprocess.__file__)
    copy = made / str(module.resolve()).lstrip("/")
    assert copy.stat().st_mtime_ns == module.stat().st_mtime_ns and copy.stat().st_size == module.stat().st_size


def test_every_file_can_be_read_by_another_user_and_written_by_none(made: Path) -> None:
    for path in made.rglob("*"):
        if not path.is_symlink():
            mode = path.stat().st_mode
            assert mode & 0o004 and not mode & 0o022, path
    assert images.hold().stat().st_mode & 0o777 == 0o700


def test_modules_of_this_project_are_in_no_image() -> None:
    for name in ("sia_core", "tasks", "flows", "tests", "json", "no_such_module", "sia_sdk"):
        assert not interpreter.is_package(name)
    assert interpreter.is_package("numpy")


def test_packages_are_those_of_the_first_harness() -> None:
    assert "torch" in packages_of(Task.load("trimul"))
    assert set(packages_of(Task.load("denoising"))) == {"numpy"}


def test_links_lead_to_what_they_led_to(tmp_path: Path) -> None:
    (tmp_path / "real" / "lib").mkdir(parents=True)
    (tmp_path / "real" / "lib" / "a.so.1").write_text("x")
    (tmp_path / "real" / "lib" / "a.so").symlink_to("a.so.1")
    (tmp_path / "link").symlink_to("real")
    files = [str(tmp_path / "link" / "lib" / "a.so"), str(tmp_path / "gone")]
    found = list(images._reached(files))
    assert found == [str(tmp_path / "real" / "lib" / "a.so"), str(tmp_path / "real" / "lib" / "a.so.1")]


@pytest.fixture
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands for /dev/shm."""
    monkeypatch.setattr(images, "MEMORY", tmp_path)
    monkeypatch.setattr(images, "_held", [])
    images.copy.cache_clear()
    images._image.cache_clear()
    yield_to = tmp_path / "source"
    yield_to.mkdir()
    (yield_to / "file").write_text("text")
    return tmp_path


def test_last_process_removes_the_copies(memory: Path) -> None:
    words = [sys.executable, "-c", USE, memory, memory / "source"]
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(words, **streams) as one, subprocess.Popen(words, **streams) as two:  # type: ignore[call-overload]
        for process in (one, two):
            assert process.stdout.readline() == "ready\n"
        (folder,) = memory.glob("sia-*")
        (copy,) = (path for path in folder.iterdir() if path.name != "lock")
        assert (copy / "file").read_text() == "text"
        one.communicate("\n")
        assert (copy / "file").is_file()
        two.communicate("\n")
    assert [path.name for path in folder.iterdir()] == ["lock"]


def test_changed_directory_is_copied_again(memory: Path) -> None:
    first = images.copy(memory / "source")
    assert images.copy(memory / "source") == first
    (memory / "source" / "file").write_text("longer text")
    images.copy.cache_clear()
    assert (images.copy(memory / "source") / "file").read_text() == "longer text"


def test_memory_that_is_too_small_is_named(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=4))
    with pytest.raises(SandboxError, match="does not fit into memory") as caught:
        images.copy(memory / "source")
    assert "make" in caught.value.hint


def test_directory_that_others_can_enter_is_refused(memory: Path) -> None:
    images.hold().chmod(0o755)
    with pytest.raises(SandboxError, match="open to others"):
        images.hold()


def test_sandbox_with_copies_lacks_nothing(bwrap: str, made: Path) -> None:
    assert bwrap and made.is_dir()
    assert "files in memory" not in probe(modules=()).missing


def test_run_says_that_files_are_not_in_memory(bwrap: str, memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert bwrap and memory.is_dir()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=4))
    assert "files in memory" in probe(modules=()).missing


DENIED = {
    "lock of a file": "import fcntl; fcntl.flock(open('/usr/bin/env'), fcntl.LOCK_SH)",
    "lock of bytes": "import fcntl; fcntl.lockf(open('/usr/bin/env'), fcntl.LOCK_SH)",
    "question for cached pages": "import os; os.preadv(os.open('/usr/bin/env', 0), [bytearray(1)], 0, 8)",
    "resident pages": "import ctypes; assert ctypes.CDLL(None).mincore(0, 0, 0) == 0",
}


@pytest.mark.parametrize("name", DENIED)
def test_call_that_shows_the_state_of_a_file_is_denied(inside: object, name: str) -> None:
    assert callable(inside)
    assert subprocess.run([sys.executable, "-c", DENIED[name]], check=False).returncode == 0, "the positive control"
    assert inside(DENIED[name]).status == "error"


def test_advice_has_no_effect_and_reading_works(inside: object) -> None:
    assert callable(inside)
    source = (
        "import os\nfd = os.open('/usr/bin/env', 0)\nos.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)\n"
        "data = bytearray(4)\nos.preadv(fd, [data], 0)\nprint(bytes(data))"
    )
    assert "ELF" in inside(source).stdout
