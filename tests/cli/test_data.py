"""`sia data` fetches with progress, resumes, prints the next step when offline, and lists the files present."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.factories import TOY
from tests.index_server import Index, serve

PREPARE = """

from pathlib import Path
from sia_core.host.downloads import Remote, fetch_remote, remote_path

_FILE = Remote({url!r}, "toy.h5", 10 << 20, {sha256!r})


def data_sets():
    return {{"colours": remote_path(_FILE)}}


def prepare(progress):
    fetch_remote(_FILE, lambda done, total: progress("colours", done, total))


def prepare_set(name, progress):
    prepare(progress)
"""


@pytest.fixture
def index() -> Iterator[Index]:
    with serve(Index(etag='"one"')) as served:
        yield served


def toy(folder: Path, url: str, sha256: str = "") -> Path:
    """The toy task, with data on a server."""
    copy = folder / "task"
    shutil.copytree(TOY, copy, ignore=shutil.ignore_patterns("__pycache__"))
    with (copy / "task.py").open("a") as file:
        file.write(PREPARE.format(url=url, sha256=sha256))
    return copy


def sia(home: Path, *words: str, code: int = 0) -> tuple[str, str]:
    """Output and error output of `sia ...`."""
    environment = {**os.environ, "SIA_HOME": str(home), "NO_PROXY": "127.0.0.1"}
    command = [sys.executable, "-m", "sia_core.cli.main", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout, done.stderr


def test_data_are_fetched_once_and_a_broken_download_is_resumed(index: Index, tmp_path: Path) -> None:
    task, home = toy(tmp_path, f"{index.url}/toy.h5"), tmp_path / "home"
    index.cut_after = [300_000]
    out, progress = sia(home, "data", "fetch", str(task))
    assert index.asked == ["", "bytes=300000-"]
    assert f"colours: {len(index.content)} in " in progress
    assert "colours        1.0 MB in" in out
    assert (home / "cache" / "files" / "toy.h5").read_bytes() == index.content
    sia(home, "data", "fetch", str(task), "colours")
    assert len(index.asked) == 2


def test_without_network_the_message_says_what_to_do_and_the_code_is_9(tmp_path: Path) -> None:
    task = toy(tmp_path, "http://127.0.0.1:9/toy.h5")
    _, said = sia(tmp_path / "home", "data", "fetch", str(task), code=9)
    assert "downloading toy.h5 failed" in said and "Traceback" not in said
    assert "next: on a machine with network: curl -L -o toy.h5 http://127.0.0.1:9/toy.h5" in said


def test_other_bytes_than_the_pinned_ones_are_refused(index: Index, tmp_path: Path) -> None:
    task = toy(tmp_path, f"{index.url}/toy.h5", "0" * 64)
    _, said = sia(tmp_path / "home", "data", "fetch", str(task), code=9)
    assert "wrong digest: expected sha256 0000" in said
    assert not (tmp_path / "home" / "cache" / "files" / "toy.h5").exists()


def test_unknown_set_names_the_known_ones(index: Index, tmp_path: Path) -> None:
    _, said = sia(tmp_path / "home", "data", "fetch", str(toy(tmp_path, index.url)), "shapes", code=2)
    assert "no data set 'shapes'" in said and "colours" in said


def test_data_list_shows_which_files_are_present(tmp_path: Path) -> None:
    (store := tmp_path / "home" / "data" / "denoising").mkdir(parents=True)
    (store / "celltypist.npz").write_bytes(b"x" * 500_000)
    out, _ = sia(tmp_path / "home", "data", "list")
    lines = {tuple(line.split()[:2]): line for line in out.splitlines()}
    assert "0.5 MB in" in lines["denoising", "celltypist"]
    for name in ("pbmc68k", "pbmc1k", "pancreas"):
        assert "not here" in lines["denoising", name]
