"""A server stays while a process uses it or somebody keeps it."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from threading import Event

import pytest

from sia_core.host import in_use

USE = "import sys, time; from pathlib import Path; from sia_core.host import in_use; "
USE += "in_use.use(Path(sys.argv[1]), 'it'); print('ready', flush=True); time.sleep(600)"


def is_unused(home: Path) -> bool:
    with in_use.unused(home, "it") as found:
        return found


def test_last_user_leaves(tmp_path: Path) -> None:
    assert is_unused(tmp_path)
    in_use.use(tmp_path, "it")
    in_use.use(tmp_path, "it")
    assert not is_unused(tmp_path)
    in_use.leave(tmp_path, "it")
    assert is_unused(tmp_path)
    in_use.leave(tmp_path, "it")


def test_kept_server_needs_no_user(tmp_path: Path) -> None:
    in_use.keep(tmp_path, "it")
    assert not is_unused(tmp_path)
    in_use.unkeep(tmp_path, "it")
    in_use.unkeep(tmp_path, "it")
    assert is_unused(tmp_path)


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_process_that_is_killed_uses_nothing_any_more(tmp_path: Path, end: int) -> None:
    with subprocess.Popen([sys.executable, "-c", USE, str(tmp_path)], stdout=subprocess.PIPE) as user:
        try:
            assert user.stdout is not None and user.stdout.readline() == b"ready\n"
            assert not is_unused(tmp_path)
        finally:
            user.send_signal(end)
            user.wait()
    assert is_unused(tmp_path)


def test_program_that_replaces_a_user_goes_on_using(tmp_path: Path) -> None:
    code = "import os, sys; from pathlib import Path; from sia_core.host import in_use; home = Path(sys.argv[1]); "
    code += "in_use.use(home, 'it'); in_use.hand_on(home, 'it'); "
    code += "os.execv('/bin/sh', ['sh', '-c', 'echo ready; read line'])"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, stdin=subprocess.PIPE
    ) as user:
        assert user.stdout is not None and user.stdout.readline() == b"ready\n"
        assert not is_unused(tmp_path)
        user.communicate(b"\n")
    assert is_unused(tmp_path)


def test_unused_server_is_forgotten_and_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_use, "_CHECK_S", 0.0)
    monkeypatch.setattr(in_use, "_UNUSED_S", 0.01)
    ended, forgotten = list[tuple[int, int]](), Event()
    monkeypatch.setattr(os, "kill", lambda *what: ended.append(what))
    in_use.end_when_unused(tmp_path, "it", forgotten.set)
    assert ended == [(os.getpid(), signal.SIGTERM)] and forgotten.is_set()
