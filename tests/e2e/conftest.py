"""Real Prefect server, real Ray, real MLflow, through the command line."""

import io
import json
import os
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import psutil
import pytest
from filelock import FileLock

from sia_core.cli.main import main
from sia_core.domain.errors import ServiceError
from sia_core.host.password import basic, password
from sia_core.host.servers import ensure, stop
from sia_core.host.services import prefect_service
from sia_core.record.store import RunRecord, open_record

AUTH = "PREFECT_API_AUTH_STRING"
TOY = Path(__file__).parents[1] / "toy"
Run = Callable[..., subprocess.CompletedProcess[str]]
Api = Callable[..., Any]


@pytest.fixture(scope="session")
def prefect_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Home of the Prefect server, shared by all workers of this test session: its first start takes 20 s of CPU."""
    base = tmp_path_factory.getbasetemp()
    home = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "prefect"
    home.mkdir(exist_ok=True)
    return home


@pytest.fixture(scope="session")
def prefect_api(prefect_home: Path) -> Iterator[str]:
    """A Prefect server of this test session, whose password is in the environment; the last worker to leave ends it."""
    users, lock = prefect_home / "users", FileLock(prefect_home / "users.lock")

    def count(change: int) -> int:
        left = (int(users.read_text()) if users.exists() else 0) + change
        users.write_text(str(left))
        return left

    with lock:
        try:
            running = ensure(prefect_service(), prefect_home, port=None)
        except ServiceError:
            stop(prefect_service(), prefect_home)
            raise
        count(1)
    os.environ[AUTH] = password(prefect_home)
    yield f"{running.url}/api"
    del os.environ[AUTH]
    with lock:
        if count(-1) == 0:
            stop(prefect_service(), prefect_home)


@pytest.fixture
def api(prefect_api: str) -> Api:
    """Calls of the Prefect server's HTTP API."""

    def call(path: str, body: Any = None, method: str = "") -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"{prefect_api}{path}",
            data=data,
            headers={"Content-Type": "application/json", **basic(os.environ[AUTH])},
            method=method or ("POST" if data else "GET"),
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    return call


@dataclass(frozen=True)
class Sia:
    """The command line with a SIA_HOME of its own."""

    home: Path
    environment: dict[str, str]

    def __call__(self, *arguments: str, code: int | None = 0, timeout: float = 900) -> str:
        """Run `sia ...`, check the exit code and return both outputs."""
        done = subprocess.run(
            self.command(*arguments), env=self.environment, capture_output=True, text=True, timeout=timeout, check=False
        )
        output = done.stdout + done.stderr
        assert code is None or done.returncode == code, output
        return output

    def fails(self, *arguments: str) -> tuple[int, str]:
        """Run `sia ...` in this process, which saves the imports, where it is to end before it starts anything.

        Returns its exit code and both outputs.
        """
        out = io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(out):
            for name, value in self.environment.items():
                patch.setenv(name, value)
            patch.setattr(sys, "argv", ["sia", *arguments])
            with pytest.raises(SystemExit) as ended:
                main()
        return cast("int", ended.value.code), out.getvalue()

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Run `sia ...` in the background, in a process group of its own."""
        return subprocess.Popen(
            self.command(*arguments),
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    @staticmethod
    def command(*arguments: str) -> list[str]:
        """The arguments of the command."""
        return [sys.executable, "-m", "sia_core.cli.main", *arguments]

    def run(self) -> RunRecord:
        """The only run of this home, or of the MLflow that its environment names."""
        record = open_record(self.home, self.environment.get("MLFLOW_TRACKING_URI"))
        (summary,) = record.summaries()
        return record.open(summary.name)


@pytest.fixture
def sia(tmp_path: Path, prefect_api: str, empty_store: Path) -> Sia:
    """The command line against the session's Prefect server."""
    return make_sia(tmp_path, prefect_api, empty_store)


@dataclass(frozen=True)
class Finished:
    """An undisturbed run of the toy task, which tests read and do not change."""

    sia: Sia
    words: tuple[str, ...]
    output: str


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, prefect_api: str, empty_store: Path) -> Finished:
    """A finished run of the harness lever on the scripted policy, made once for each session."""
    sia = make_sia(tmp_path_factory.mktemp("finished"), prefect_api, empty_store)
    words = ("run", str(TOY), "--policy", "scripted", "--no-ui", "--seed", "1")
    return Finished(sia, words, sia(*words))


AGAIN = """
MENUS = {"poor": ["red", "green"], "rich": ["red", "green", "blue", "violet"]}


async def solve(problem, ctx):
    for _ in range(ctx.knobs["attempts"]):
        colour = await ctx.choose("Pick a colour:", MENUS[ctx.knobs["menu"]])
    return {"colour": colour}
"""
"""The toy harness, with an effect of its second knob: a knob without one is refused before the gate."""


def toy_of_two_knobs(folder: Path) -> Path:
    """Make a copy of the toy task whose second knob changes what its harness does."""
    task = Path(shutil.copytree(TOY, folder / "toy"))
    (task / "harness" / "agent.py").write_text(AGAIN)
    return task


def make_sia(folder: Path, prefect_api: str, empty_store: Path) -> Sia:
    """The command line with a home in a folder."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_", "SIA_"))}
    home = folder / "home"
    home.mkdir()
    shutil.copy(empty_store, home)
    named = {"SIA_HOME": str(home), "PREFECT_API_URL": prefect_api, AUTH: os.environ[AUTH], "COLUMNS": "200"}
    return Sia(home, {**kept, **named})


def processes_of(home: Path) -> list[psutil.Process]:
    """Processes that carry this SIA_HOME in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("SIA_HOME") == str(home) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.AccessDenied, psutil.NoSuchProcess):
            continue
    return found
