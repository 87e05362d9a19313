"""The two servers behind the UIs: how each is started, and what is handed down to it."""

import hashlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

HOST = "127.0.0.1"


@dataclass(frozen=True)
class Service:
    """How to start a server and see that it is well."""

    name: str
    port: int
    """Preferred port."""
    health: str
    """Path that answers 200 when it is ready."""
    command: Callable[[Path, int], list[str]]
    environment: Callable[[Path, int], dict[str, str]]
    api: str = ""
    """Path of the API below the address."""
    variant: str = ""
    """Distinguishes servers of one name in one home, which show different stores."""
    dropped: Callable[[str], bool] = lambda _: False
    """True for a variable of the environment that is not handed down, because it is meant for another server."""
    ends_unused: bool = False
    """True if it ends when no process uses it and nobody keeps it (`in_use`)."""

    @property
    def full_name(self) -> str:
        """Name of its files."""
        return f"{self.name}-{self.variant}" if self.variant else self.name


def prefect_service() -> Service:
    """Prefect's server on SQLite under SIA_HOME."""
    return Service(
        name="prefect",
        port=4200,
        health="/api/health",
        command=lambda _home, port: [
            *(sys.executable, "-P", "-m", "uvicorn", "--factory", "sia_core.host.guard:prefect_server"),
            *("--host", HOST, "--port", str(port), "--log-level", "warning"),
        ],
        environment=lambda home, port: {
            "PREFECT_HOME": str(home / "prefect"),
            # What its pages ask. They take the default port otherwise, whatever port the server itself is given.
            "PREFECT_SERVER_UI_API_URL": f"http://{HOST}:{port}/api",
            "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"http://{HOST}:{port},http://localhost:{port}",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_LOGGING_LEVEL": "WARNING",
        },
        api="/api",
        dropped=lambda name: name.startswith("PREFECT_") and not name.startswith("PREFECT_LOGGING_"),
        ends_unused=True,
    )


def mlflow_service(database: str = "") -> Service:
    """MLflow's server over the same store the driver writes.

    Args:
        database: address of a database, which may hold a password; SQLite under SIA_HOME if empty.
    """
    return Service(
        name="mlflow",
        port=5000,
        health="/health",
        command=lambda _home, port: [
            *(sys.executable, "-P", "-m", "mlflow", "server", "--app-name", "sia"),
            *("--host", HOST, "--port", str(port), "--workers", "1"),
        ],
        environment=lambda home, _port: {
            "MLFLOW_BACKEND_STORE_URI": database or f"sqlite:///{home / 'mlflow.db'}",
            "MLFLOW_DEFAULT_ARTIFACT_ROOT": _artifacts(database, home),
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        },
        variant=hashlib.sha256(database.encode()).hexdigest()[:8] if database else "",
        dropped=lambda name: name.startswith(("MLFLOW_", "_MLFLOW_")) and not name.startswith(_ARTIFACT_ACCESS),
    )


_ARTIFACT_ACCESS = ("MLFLOW_S3_", "MLFLOW_GCS_", "MLFLOW_BOTO_", "MLFLOW_LOGGING_")
"""Variables by which MLflow's server too reaches artifacts."""


def _artifacts(database: str, home: Path) -> str:
    return (database and os.environ.get("MLFLOW_DEFAULT_ARTIFACT_ROOT")) or (home / "artifacts").as_uri()
