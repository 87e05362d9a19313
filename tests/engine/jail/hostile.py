#!/usr/bin/env python3
"""A command that tries to reach everything and prints the result of each attack. Attacks work outside a jail."""

import ctypes
import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

_CLONE_NEWUSER = 0x10000000
_PTRACE_ATTACH, _PR_SET_DUMPABLE = 16, 4

Attack = Callable[[dict[str, Any]], object]


def read(name: str) -> Attack:
    return lambda names: Path(names[name]).read_text()


def listed(name: str) -> Attack:
    return lambda names: list(Path(names[name]).iterdir())


def write(name: str) -> Attack:
    return lambda names: (Path(names[name]) / "planted").write_text("x")


def read_environment(names: dict[str, Any]) -> object:
    return Path(f"/proc/{names['driver']}/environ").read_bytes()


def signal_driver(names: dict[str, Any]) -> object:
    os.kill(names["driver"], 0)
    here = Path(f"/proc/{names['driver']}/cmdline").read_text()
    assert names["mark"] in here, "another process of that number"
    return here


def inherited(names: dict[str, Any]) -> object:
    return os.environ[names["variable"]]


def reach_tcp(names: dict[str, Any]) -> object:
    with socket.create_connection(("127.0.0.1", names["port"]), 3) as made:
        return made.recv(10)


def reach_abstract(names: dict[str, Any]) -> object:
    with socket.socket(socket.AF_UNIX) as made:
        made.connect(f"\0{names['abstract']}")
        return made.recv(10)


def reach_unix(names: dict[str, Any]) -> object:
    with socket.socket(socket.AF_UNIX) as made:
        made.connect(names["socket"])
        return made.recv(10)


def other_interface(_names: dict[str, Any]) -> object:
    others = [name for _, name in socket.if_nameindex() if name != "lo"]
    assert others, "the loopback alone"
    return others


def new_namespace(_names: dict[str, Any]) -> object:
    return call("unshare", _CLONE_NEWUSER)


def trace_child(_names: dict[str, Any]) -> object:
    child = os.fork()
    if not child:
        signal.pause()
    try:
        return call("ptrace", _PTRACE_ATTACH, child, 0, 0)
    finally:
        os.kill(child, signal.SIGKILL)


def keyring(_names: dict[str, Any]) -> object:
    return ctypes.CDLL(None, use_errno=True).syscall(250, 0, -3, 0) >= 0 or failed("keyctl")


def call(name: str, *arguments: int) -> object:
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments) < 0:
        failed(name)
    return True


def failed(name: str) -> object:
    number = ctypes.get_errno()
    raise OSError(number, f"{name}: {os.strerror(number)}")


ATTACKS: dict[str, Attack] = {
    "read SIA_HOME": read("record"),
    "list SIA_HOME": listed("home"),
    "write SIA_HOME": write("home"),
    "read the task's answers": read("answers"),
    "read another run": read("run"),
    "read the person's home": read("private"),
    "read the work directory by its own path": listed("desk"),
    "read what lies beside the tool": read("beside"),
    "read the driver's environment": read_environment,
    "signal the driver": signal_driver,
    "inherit a variable": inherited,
    "reach a server of this machine": reach_tcp,
    "reach an abstract socket": reach_abstract,
    "reach a socket": reach_unix,
    "find another interface": other_interface,
    "make a namespace": new_namespace,
    "trace a process": trace_child,
    "use a keyring": keyring,
}
CONTROLS: dict[str, Attack] = {
    "write here": lambda _: Path("here").write_text("x"),
    "write the home": lambda _: (Path.home() / "here").write_text("x"),
    "write /tmp": lambda _: Path("/tmp/here").write_text("x"),
    "read a mount": read("mount"),
    "start a process": lambda _: os.waitpid(os.spawnlp(os.P_NOWAIT, "true", "true"), 0)[1] == 0 or failed("true"),
    "listen on the loopback": lambda _: socket.create_server(("127.0.0.1", 0)).close(),
    "know its name": lambda _: Path.home() != Path("/") or failed("no home"),
}


def outcome(attack: Attack, names: dict[str, Any]) -> str:
    try:
        attack(names)
    except Exception as error:  # noqa: BLE001 - all that an attack can end with
        return f"{type(error).__name__}: {error}"
    return "works"


def main() -> None:
    names = json.loads(sys.stdin.read())
    chosen = ATTACKS if names.get("outside") else {**ATTACKS, **CONTROLS}
    # Each in a process of its own: some change the process that makes them.
    print(json.dumps({name: apart(one, names) for name, one in chosen.items()}))


def apart(attack: Attack, names: dict[str, Any]) -> str:
    reading, writing = os.pipe()
    if not os.fork():
        os.write(writing, outcome(attack, names).encode()[:300])
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answer:
        text = answer.read()
    os.wait()
    return text


if __name__ == "__main__":
    main()
