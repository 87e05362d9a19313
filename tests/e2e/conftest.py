"""Real Prefect server, real Ray, real MLflow, through the command line."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from sia_core.record.store import RunRecord, open_record
from sia_core.services import ensure, prefect_service, stop

TOY = Path(__file__).parents[1] / "toy"
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def prefect_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prefect server of this test session."""
    home = tmp_path_factory.mktemp("prefect")
    running = ensure(prefect_service(), home, port=None)
    yield f"{running.url}/api"
    stop(prefect_service(), home)


@dataclass(frozen=True)
class Sia:
    """The command line with a SIA_HOME of its own."""

    home: Path
    environment: dict[str, str]

    def __call__(self, *arguments: str, code: int | None = 0, timeout: float = 240) -> str:
        """Run `sia ...`; check the exit code; return both outputs."""
        done = subprocess.run(
            self.command(*arguments), env=self.environment, capture_output=True, text=True, timeout=timeout, check=False
        )
        output = done.stdout + done.stderr
        assert code is None or done.returncode == code, output
        return output

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
        """The command's words."""
        return [sys.executable, "-m", "sia_core.cli.main", *arguments]

    def run(self) -> RunRecord:
        """The only run of this home, read from MLflow."""
        record = open_record(self.home, None)
        (summary,) = record.summaries()
        return record.open(summary.name)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's database before its first run: making the tables takes seconds, copying them none."""
    home = tmp_path_factory.mktemp("mlflow")
    open_record(home, None)
    return home / "mlflow.db"


@pytest.fixture
def sia(tmp_path: Path, prefect_api: str, empty_store: Path) -> Sia:
    """The command line against the session's Prefect server."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_", "SIA_"))}
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(empty_store, home)
    return Sia(home, {**kept, "SIA_HOME": str(home), "PREFECT_API_URL": prefect_api, "COLUMNS": "200"})


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
