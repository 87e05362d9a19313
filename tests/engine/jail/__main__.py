"""Run the hostile command in a jail and outside a jail, as the current user. Print both results as JSON."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from sia_core.domain.jail import Errand
from sia_core.engine.jail import BubbleJail

HOSTILE = Path(__file__).with_name("hostile.py")


def main() -> dict[str, Any]:
    """Create the targets; a command outside a jail reaches all of them."""
    with tempfile.TemporaryDirectory(prefix="sia-jail-", ignore_cleanup_errors=True) as folder:
        top = Path(folder)
        top.chmod(0o755)
        names = _files(top) | _sockets(top)
        names |= {"driver": os.getpid(), "variable": "DRIVERS_SECRET", "mark": "tests.engine.jail"}
        os.environ["DRIVERS_SECRET"] = "GOT"
        tool = Path(shutil.copy(HOSTILE, top / "tool" / "hostile"))
        tool.chmod(0o755)
        told = json.dumps(names).encode()
        command = [sys.executable, str(tool)]
        alone = json.dumps({**names, "outside": True}).encode()
        outside = subprocess.run(command, input=alone, capture_output=True, check=True, cwd=top / "other").stdout
        jail = BubbleJail(mounts=[top / "mount"], hidden=[Path(names["home"]), top / "task"])
        desk = Path(names["desk"])
        jail.own(desk / "work", desk / "home")
        errand = Errand((str(tool),), desk / "work", desk / "home", desk / "given", told, {}, 60)
        ended = jail.run(errand, lambda: None)
        if ended.code:
            raise SystemExit(ended.stderr)
        return {"uid": os.getuid(), "inside": json.loads(ended.stdout), "outside": json.loads(outside)}


def _files(top: Path) -> dict[str, Any]:
    places = {
        "record": "sia/mlflow.db",
        "run": "sia/runs/other/journal.db",
        "answers": "task/task.py",
        "private": "person/secret",
        "beside": "tool/other",
        "mount": "mount/library",
    }
    for place in places.values():
        (top / place).parent.mkdir(parents=True, exist_ok=True)
        (top / place).write_text("GOT")
    desk = top / "sia/runs/this/command/1-0-x"
    for name in ("work", "home", "given"):
        (desk / name).mkdir(parents=True)
    (top / "other").mkdir()
    return {**{name: str(top / place) for name, place in places.items()}, "home": str(top / "sia"), "desk": str(desk)}


def _sockets(top: Path) -> dict[str, Any]:
    abstract = f"sia-{os.urandom(6).hex()}"
    tcp = socket.create_server(("127.0.0.1", 0))
    named, hidden = (socket.socket(socket.AF_UNIX) for _ in range(2))
    named.bind(str(top / "socket"))
    hidden.bind(f"\0{abstract}")
    for one in (tcp, named, hidden):
        one.listen()
        threading.Thread(target=_greet, args=(one,), daemon=True).start()
    return {"port": tcp.getsockname()[1], "socket": str(top / "socket"), "abstract": abstract}


def _greet(server: socket.socket) -> None:
    while True:
        made, _ = server.accept()
        with made:
            made.sendall(b"GOT")


if __name__ == "__main__":
    print(json.dumps(main()))
