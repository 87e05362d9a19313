"""The servers of docker-compose.yml without containers: the same commands and the same environment, on this machine.

What an image would bring is the distribution's (Postgres, Redis) or moto's (S3). Hosts and ports of the file are put
onto free ports of the loopback; nothing else is changed, so that what runs here is what the file says.
"""

import importlib.util
import os
import re
import secrets as random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from infra import secrets
from tests.services import compose
from tests.services.daemon import Daemon, answers, free_port, listens, module

ROOT = compose.FILE.parent
_PORTS = {"prefect-db": 5432, "mlflow-db": 5432, "redis": 6379, "s3": 9000, "prefect": 4200, "mlflow": 5000}
_PORTS |= {"ray-head": 6379}
_MODULES = {"psycopg2": "psycopg2-binary", "boto3": "boto3", "moto": "moto", "prefect_redis": "prefect-redis"}
_MODULES |= {"flask_wtf": "Flask-WTF"}
_KEPT = ("PATH", "PYTHONPATH", "LANG", "VIRTUAL_ENV")
SMALL = "--object-store-memory=100000000 --min-worker-port=0 --max-worker-port=0"
"""Variables that let several nodes run on the same machine."""
LATE = "timed out during startup"
"""Ray's message about a node that did not start on a busy machine."""
RESTARTS = 4


def missing() -> str:
    """Return the programs and packages that are missing here, separated by commas; empty if there are none."""
    lacks = [name for name in ("initdb", "redis-server") if program(name) is None]
    lacks += [package for name, package in _MODULES.items() if importlib.util.find_spec(name) is None]
    return ", ".join(lacks)


def program(name: str) -> str | None:
    """A program's path; Debian keeps Postgres's out of PATH."""
    found = shutil.which(name)
    if found:
        return found
    return next((str(path) for path in sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))), None)


@dataclass
class Native:
    """Services with the folder, variables and ports that are needed to start and to use them."""

    folder: Path
    variables: dict[str, str]
    services: dict[str, Any]
    ports: dict[str, int]
    started: dict[str, Daemon] = field(default_factory=dict)

    @classmethod
    def plan(cls, folder: Path) -> "Native":
        """Fresh secrets and ports."""
        names = secrets.demanded(compose.FILE.read_text())
        variables = {name: random.token_hex(32) for name in names} | {"SIA_RAY_CPUS": "2"}
        ports = {name: free_port() for name in _PORTS} | {"client": free_port()}
        ports["mlflow-db"] = ports["prefect-db"]
        return cls(folder, variables, compose.load(variables)["services"], ports)

    def put(self, text: str) -> str:
        """Hosts, ports and paths of the containers, as they are here."""
        for name, port in _PORTS.items():
            text = re.sub(rf"(?<![\w.-]){name}:{port}\b", f"127.0.0.1:{self.ports[name]}", text)
        text = re.sub(r"^/tmp\b", str(self.folder / "tmp"), text)
        return text.replace("/opt/sia", str(ROOT)).replace("/var/lib/sia", str(self.folder / "sia"))

    def environment(self, name: str) -> dict[str, str]:
        """Environment of a service; only the variables in `_KEPT` come from this process."""
        kept = {key: os.environ[key] for key in _KEPT if key in os.environ}
        kept["PATH"] = f"{Path(sys.executable).parent}:{kept['PATH']}"
        own = {key: self.put(str(value)) for key, value in self.services[name].get("environment", {}).items()}
        return {**kept, "HOME": str(self.folder), **own}

    def command(self, name: str, **words: str) -> list[str]:
        """Command of a service; `words` maps whole arguments of the command to their replacements."""
        said = self.services[name]["command"]
        command = [self.put(word) for word in (said.split() if isinstance(said, str) else said)]
        command = [words.get(word, word).replace("0.0.0.0", "127.0.0.1") for word in command]
        assert command[0] in ("mlflow", "prefect", "python", "ray", "bash")
        own = Path(sys.executable).with_name(command[0])
        return [str(own) if own.exists() else command[0], *command[1:]]

    def url(self, name: str, path: str = "") -> str:
        """Address of a service."""
        return f"http://127.0.0.1:{self.ports[name]}{path}"

    def start(self, name: str, daemon: Daemon, stack: ExitStack) -> Daemon:
        """Keep a server that was started until the end."""
        self.started[name] = stack.enter_context(daemon)
        return daemon

    def log(self, name: str) -> Path:
        """Path of the log of a service."""
        return self.folder / f"{name}.log"


@contextmanager
def running(folder: Path) -> Iterator[Native]:
    """All services of the file, up; ended with everything they started."""
    native = Native.plan(folder)
    for name in ("sia", "tmp"):
        (folder / name).mkdir()
    with ExitStack() as stack:
        stack.callback(_end_strays, folder)
        stack.enter_context(_postgres(native))
        redis = ["redis-server", "--port", str(native.ports["redis"]), "--bind", "127.0.0.1", "--dir", str(folder)]
        redis += native.services["redis"]["command"][1:]
        native.start("redis", Daemon(redis, lambda: listens(native.ports["redis"]), native.log("redis")), stack).wait()
        s3 = module("moto.server", "-H", "127.0.0.1", "-p", str(native.ports["s3"]))
        native.start("s3", Daemon(s3, lambda: listens(native.ports["s3"]), native.log("s3")), stack)
        _python(
            native, "prefect", native.url("prefect", "/api/health"), stack, **{"4200": str(native.ports["prefect"])}
        )
        native.started["s3"].wait()
        subprocess.run(native.command("bucket"), env=native.environment("bucket"), check=True)
        port = {"--port=5000": f"--port={native.ports['mlflow']}", "--workers=2": "--workers=1"}
        _python(native, "mlflow", native.url("mlflow", "/health"), stack, **port)
        _ray(native, stack)
        native.started["prefect"].wait()
        services = Daemon(
            native.command("prefect-services"),
            lambda: True,
            native.log("prefect-services"),
            environment=native.environment("prefect-services"),
        )
        native.start("prefect-services", services, stack)
        native.started["mlflow"].wait()
        yield native


def _python(native: Native, name: str, health: str, stack: ExitStack, **words: str) -> None:
    environment = native.environment(name)
    if name == "mlflow":  # A file names the database's host.
        own = native.folder / "mlflow_auth.ini"
        own.write_text(native.put(Path(environment["MLFLOW_AUTH_CONFIG_PATH"]).read_text()))
        environment["MLFLOW_AUTH_CONFIG_PATH"] = str(own)
    daemon = Daemon(
        native.command(name, **words),
        lambda: answers(health),
        native.log(name),
        environment=environment,
        cwd=native.folder,
    )
    native.start(name, daemon, stack)


def _ray(native: Native, stack: ExitStack) -> None:
    """Head and worker as two nodes; Ray's sockets need a short path."""
    temporary = Path(tempfile.mkdtemp(prefix="sia-ray-", dir="/tmp"))
    stack.callback(shutil.rmtree, temporary, ignore_errors=True)
    stack.callback(_end_strays, temporary)
    ports = {
        "--port=6379": f"--port={native.ports['ray-head']}",
        "--ray-client-server-port=10001": f"--ray-client-server-port={native.ports['client']}",
    }
    head = [*native.command("ray-head", **ports), *SMALL.split(), f"--temp-dir={temporary}"]
    worker = [*native.command("ray-worker"), *SMALL.split()]
    for name, command in {"ray-head": head, "ray-worker": worker}.items():
        _ray_node(native, name, command, stack)


def _ray_node(native: Native, name: str, command: list[str], stack: ExitStack) -> None:
    """Start a node, again as `restart: unless-stopped` would: Ray gives up when it is not up within 30 s."""

    def up() -> bool:
        return "Ray runtime started" in native.log(name).read_text()

    for attempt in range(1, RESTARTS + 1):
        daemon = Daemon(command, up, native.log(name), environment=native.environment(name))
        try:
            native.start(name, daemon, stack).wait()
            return
        except AssertionError:
            if attempt == RESTARTS or LATE not in native.log(name).read_text():
                raise


@contextmanager
def _postgres(native: Native) -> Iterator[None]:
    """Start a single server for both databases. Postgres refuses to run as root."""
    user = "postgres" if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="sia-pg-", dir="/tmp"))
    if user:
        shutil.chown(folder, user)
    port, data = native.ports["prefect-db"], folder / "data"
    try:
        make = [str(program("initdb")), "-D", str(data), "-U", "postgres", "--auth-local=trust"]
        make += ["--auth-host=scram-sha-256", "-E", "UTF8", "--no-sync", "--no-locale"]
        subprocess.run(make, check=True, capture_output=True, user=user, cwd=folder)
        serve = [str(program("postgres")), "-D", str(data), "-p", str(port), "-k", str(folder), "-h", "127.0.0.1"]
        serve += ["-c", "fsync=off", "-c", "shared_buffers=32MB"]
        with Daemon(serve, lambda: listens(port), native.log("postgres"), user=user, cwd=folder) as server:
            server.wait()
            for name in ("prefect-db", "mlflow-db"):
                _make_database(folder, port, native.services[name]["environment"], user)
            yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _make_database(folder: Path, port: int, made: Mapping[str, str], user: str | None) -> None:
    """Create role and database from the variables of the service, as the image does."""
    name, password = made["POSTGRES_USER"], made["POSTGRES_PASSWORD"]
    psql = [str(program("psql")), "-h", str(folder), "-p", str(port), "-U", "postgres", "-v", "ON_ERROR_STOP=1", "-q"]
    for statement in (
        f"CREATE ROLE {name} LOGIN PASSWORD '{password}'",
        f"CREATE DATABASE {made['POSTGRES_DB']} OWNER {name}",
    ):
        subprocess.run([*psql, "-c", statement], check=True, user=user, cwd=folder, capture_output=True)


def _end_strays(folder: Path) -> None:
    """End Ray's daemons, which leave their group and are known by a path of their own."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.pid != os.getpid() and str(folder) in " ".join(process.cmdline()):
                found.append(process)
                process.terminate()
    _, alive = psutil.wait_procs(found, timeout=10)
    for process in alive:
        with suppress(psutil.Error):
            process.kill()
