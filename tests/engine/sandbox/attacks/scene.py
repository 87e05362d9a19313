"""Targets of the attacks: secrets, sockets that listen, a process to attack, another's folder."""

import contextlib
import os
import secrets
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[4]


@contextlib.contextmanager
def scene() -> Iterator[dict[str, str]]:
    """Name -> text to stand for @NAME@ in a program. Everything in it works for a program outside."""
    with contextlib.ExitStack() as stack:
        top = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sia-scene-", ignore_cleanup_errors=True)))
        top.chmod(0o755)
        names = _files(top) | _sockets(top, stack)
        victim = subprocess.Popen(
            [sys.executable, "-c", "import time; print(flush=True); time.sleep(900)"],
            env={"KEY": "GOT"},
            stdout=subprocess.PIPE,
        )
        stack.enter_context(victim)
        stack.callback(victim.kill)
        assert victim.stdout is not None
        victim.stdout.readline()
        names["T"] = secrets.token_hex(8)  # Two suites may run at once, as two users.
        names["K"] = secrets.token_hex(3)
        names["NICE"] = str(os.nice(0))
        yield {**names, "PROJECT": str(PROJECT), "PID": str(os.getpid()), "VICTIM": str(victim.pid)}


def _files(top: Path) -> dict[str, str]:
    made = {}
    for name, mode in (("FOLDER", 0o755), ("OPEN", 0o777), ("OTHER", 0o755), ("HOME", 0o755)):
        path = top / name.lower()
        path.mkdir()
        path.chmod(mode)
        made[name] = str(path)
    for name, place, mode in (
        ("SECRET", "folder/secret", 0o644),
        ("OWN", "folder/own", 0o644),
        ("WRITABLE", "open/writable", 0o666),
        ("MOVABLE", "open/movable", 0o666),
        ("MAIN", "other/main.py", 0o644),
    ):
        path = top / place
        path.write_text(f"GOT {secrets.token_hex(8)}")
        path.chmod(mode)
        made[name] = str(path)
    (top / "home" / ".sia").mkdir()
    (top / "home" / ".sia" / "key").write_text("GOT")
    return made


def _sockets(top: Path, stack: contextlib.ExitStack) -> dict[str, str]:
    abstract = f"sia-{secrets.token_hex(8)}"
    tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    for address in (str(top / "socket"), f"\0{abstract}"):
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(address)
        listener.listen(64)
    (top / "socket").chmod(0o777)
    return {"UNIX": str(top / "socket"), "ABSTRACT": abstract, "PORT": str(tcp.getsockname()[1])}
