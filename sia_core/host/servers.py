"""Start the servers behind the UIs in the background, find them again, and end them.

Each is found again by later commands through `services/NAME.json` under SIA_HOME. They listen on the loopback only, and
ask for the password of this SIA_HOME (`guard`). Prefect's server ends with the last command that uses it, unless the
UIs are kept up (`in_use`); `sia ui --stop` ends both.

A server counts as found only if it is the one of this home (it works in that directory, and it holds its port), so that
nobody is sent to the pages of another home. Settings of yours that are meant for another server are kept from it.
"""

import json
import os
import secrets
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from sia_core.domain.errors import ServiceError
from sia_core.host import in_use
from sia_core.host.home import private_directory, private_file
from sia_core.host.services import HOST, Service

CODE = "SIA_LOGIN_CODE"
"""Variable of a server with the code by which a browser logs in."""
START_TIMEOUT_S = 300.0
"""Its first start makes its tables: 20 s of CPU, and the machine may be busy. One that dies is noticed at once."""


@dataclass(frozen=True)
class Running:
    """A server that is up."""

    name: str
    pid: int
    port: int
    code: str = ""
    """Code by which a browser logs in; new at each start."""

    @property
    def url(self) -> str:
        """Address of its UI."""
        return f"http://{HOST}:{self.port}"


def find(service: Service, home: Path) -> Running | None:
    """The server an earlier command started, if it answers."""
    running = _started(service, home)
    return running if running and _healthy(service, running.port) and _listens(running) else None


def ensure(service: Service, home: Path, *, port: int | None = None, wait: bool = True, keep: bool = False) -> Running:
    """Find the server or start it, and use it as long as this process lives.

    Args:
        service: which one.
        home: SIA_HOME.
        port: demanded port; None takes the preferred one, or a free one when that is taken.
        wait: return only when it answers.
        keep: True to keep it up after that, until `stop`.

    Raises:
        ServiceError: the demanded port is taken, or the server did not come up.
    """
    if service.ends_unused:
        in_use.use(home, service.name)
        if keep:
            in_use.keep(home, service.name)
    running = _started(service, home)
    if running is not None:
        if port is not None and running.port != port:
            raise ServiceError(
                f"{service.name} already runs on port {running.port}",
                hint=f"open {running.url}, or sia ui --stop first",
            )
        return wait_for(service, running, home) if wait else running
    running = _start(service, home, _pick_port(service, port))
    return wait_for(service, running, home, moving=port is None) if wait else running


def wait_for(service: Service, running: Running, home: Path, *, moving: bool = True) -> Running:
    """Wait until a started server answers, and return it.

    Args:
        service: which one.
        running: as it was started.
        home: SIA_HOME.
        moving: start it again, once, on another port where another program was quicker to take its own.

    Raises:
        ServiceError: it died or took too long.
    """
    deadline = time.monotonic() + START_TIMEOUT_S
    while not (_healthy(service, running.port) and _listens(running)):
        alive = _alive(running.pid)
        if not alive and moving and not _free(running.port):
            running, moving = _start(service, home, _any_port()), False
        elif not alive or time.monotonic() > deadline:
            raise ServiceError(
                f"{service.name} did not come up on port {running.port}{_last_line(_log(service, home))}",
                where=str(_log(service, home)),
                hint=f"read that log; another port: sia ui --{service.name}-port N",
            )
        time.sleep(0.2)
    return running


def leave(service: Service, home: Path) -> bool:
    """End the server unless another process uses it or it is kept up. True if it has ended."""
    in_use.leave(home, service.name)
    with in_use.unused(home, service.name) as is_unused:
        return is_unused and stop(service, home)


def forget(service: Service, home: Path) -> None:
    """Let no command find the server any more."""
    _state(service, home).unlink(missing_ok=True)


def stop(service: Service, home: Path) -> bool:
    """End the server an earlier command started. True if there was one."""
    in_use.unkeep(home, service.name)
    running = _started(service, home)
    forget(service, home)
    if running is None:
        return False
    try:
        os.killpg(running.pid, signal.SIGTERM)
    except ProcessLookupError:
        return False
    deadline = time.monotonic() + 10
    while _alive(running.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    if _alive(running.pid):
        os.killpg(running.pid, signal.SIGKILL)
    return True


def _started(service: Service, home: Path) -> Running | None:
    """Return the server that an earlier command started, ready or not, if its process is alive."""
    try:
        known = json.loads(_state(service, home).read_text())
        running = Running(str(known["name"]), int(known["pid"]), int(known["port"]), str(known["code"]))
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return running if _is_server(running.pid, service, home) else None


def _is_server(pid: int, service: Service, home: Path) -> bool:
    """Return True if the process is that server of that home: the number may by now belong to any process."""
    try:
        process = psutil.Process(pid)
        command, folder = " ".join(process.cmdline()), process.cwd()
        return service.name in command and "server" in command and home.samefile(folder)
    except (psutil.Error, OSError):
        return False


def _start(service: Service, home: Path, port: int) -> Running:
    code = secrets.token_urlsafe(24)
    with private_file(_log(service, home)).open("ab") as out:
        process = subprocess.Popen(
            service.command(home, port),
            env={
                **{name: value for name, value in os.environ.items() if not service.dropped(name)},
                **service.environment(home, port),
                CODE: code,
            },
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
            umask=0o077,
            cwd=home,
        )
    running = Running(service.name, process.pid, port, code)
    private_file(_state(service, home)).write_text(json.dumps(asdict(running)))
    return running


def _pick_port(service: Service, demanded: int | None) -> int:
    port = demanded if demanded is not None else service.port
    if _free(port):
        return port
    if demanded is not None:
        raise ServiceError(
            f"port {port} is already taken", where=service.name, hint=f"sia ui --{service.name}-port ANOTHER"
        )
    return _any_port()


def _any_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Opener that takes no proxy, which could not reach this machine's loopback."""


def _healthy(service: Service, port: int) -> bool:
    try:
        with _DIRECT.open(f"http://{HOST}:{port}{service.health}", timeout=2) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError, ValueError):
        return False


def _listens(running: Running) -> bool:
    """Return True if the server or a process it started has the port: two homes may have taken one port at once."""
    try:
        leader = psutil.Process(running.pid)
        family = [leader, *leader.children(recursive=True)]
    except psutil.Error:
        return False
    return any(running.port in _ports(process) for process in family)


def _ports(process: psutil.Process) -> set[int]:
    """Ports of loopback or all addresses that a process listens on; none for one that has ended."""
    try:
        found = process.net_connections("tcp")
    except psutil.Error:
        return set()
    return {one.laddr.port for one in found if one.status == psutil.CONN_LISTEN}


def _alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _last_line(log: Path) -> str:
    """Return the end of a server's log, as the end of a message."""
    try:
        lines = log.read_text(errors="replace").split("\n")
    except OSError:
        return ""
    said = [line.strip() for line in lines if line.strip()]
    return f": {said[-1][:300]}" if said else ""


def _state(service: Service, home: Path) -> Path:
    return private_directory(home / "services") / f"{service.full_name}.json"


def _log(service: Service, home: Path) -> Path:
    return private_directory(home / "logs") / f"{service.full_name}.log"
