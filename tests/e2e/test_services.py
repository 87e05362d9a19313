"""`sia run` against the servers of docker-compose.yml, run natively (tests/services/native.py): over HTTP, with
passwords, on Postgres, Redis, an S3 API and two nodes of Ray."""

import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.e2e.conftest import TOY, Finished, Sia
from tests.e2e.test_resume import outcome
from tests.services.daemon import free_port
from tests.services.native import LATE, RESTARTS, ROOT, SMALL, Native, missing, running

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Native]:
    if lacking := missing():
        pytest.skip(f"not installed: {lacking}; see docs/operations.md")
    with running(tmp_path_factory.mktemp("native")) as native:
        yield native


@pytest.fixture
def sia(native: Native) -> Sia:
    """The command line as the service `worker` has it."""
    environment = {**native.environment("worker"), "COLUMNS": "200", "HF_HUB_OFFLINE": "1"}
    return Sia(Path(environment["SIA_HOME"]), environment)


def test_worker_completes_a_run_on_the_services(
    native: Native, sia: Sia, finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node without CPUs joins the cluster by infra/worker.sh, and its run ends as it does on SQLite."""
    command = tmp_path / "sia"
    run = shlex.join([sys.executable, "-m", "sia_core.cli.main", *finished.words])
    command.write_text(f'#!/bin/sh\n[ "$1" = worker ] || exit 64\nexec {run}\n')
    command.chmod(0o755)
    environment = {**sia.environment, "SIA": str(command), "SIA_RAY_ARGS": SMALL}
    for _ in range(RESTARTS):  # As `restart: unless-stopped` does.
        done = subprocess.run(
            [shutil.which("bash") or "bash", str(ROOT / "infra" / "worker.sh")],
            env=environment,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
            cwd=tmp_path,
        )
        if LATE not in done.stderr:
            break
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-5000:]
    mlflow, prefect = native.url("mlflow"), native.url("prefect", "/api")
    ray = f"127.0.0.1:{native.ports['ray-head']}"
    assert f"MLflow {mlflow} as sia · Prefect {prefect} with an auth string · Ray {ray} with a token" in said
    assert "Ray cluster of 3 nodes" in said
    assert not any(secret in said for secret in _secrets(native))
    expected = outcome(finished.sia)
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, sia.environment[name])
    assert outcome(sia) == expected


def test_record_is_kept_in_databases_and_s3_only(native: Native, sia: Sia) -> None:
    """The record is in the databases and in S3; the disk of the driver holds only its own working files."""
    import boto3  # Only where `native` is.
    import psycopg2

    s3 = boto3.client(
        "s3", endpoint_url=native.url("s3"), aws_access_key_id="a", aws_secret_access_key="b", region_name="us-east-1"
    )
    keys = [item["Key"] for item in s3.list_objects_v2(Bucket="mlflow")["Contents"]]
    assert any(key.endswith("phases/test.json") for key in keys)
    counts = {}
    for name, query in {"mlflow": "SELECT count(*) FROM runs", "prefect": "SELECT count(*) FROM flow_run"}.items():
        password = native.services[f"{name}-db"]["environment"]["POSTGRES_PASSWORD"]
        where = {"host": "127.0.0.1", "port": native.ports[f"{name}-db"]}
        with (
            psycopg2.connect(dbname=name, user=name, password=password, **where) as database,
            database.cursor() as rows,
        ):
            rows.execute(query)
            counts[name] = rows.fetchone()[0]
    # A run and two generations; to MLflow who holds the run is one more.
    assert counts == {"mlflow": 4, "prefect": 3}
    assert not (sia.home / "mlflow.db").exists() and not (sia.home / "artifacts").exists()
    assert "finished" in sia("status").lower()


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("MLFLOW_TRACKING_PASSWORD", "wrong-password", ("does not let us in", "as sia", "MLFLOW_TRACKING_USERNAME")),
        ("MLFLOW_TRACKING_USERNAME", "", ("does not let us in", "no user was given")),
        ("PREFECT_API_AUTH_STRING", "sia:wrong", ("does not let us in", "PREFECT_API_AUTH_STRING")),
        ("RAY_AUTH_TOKEN", 64 * "b", ("Ray answers, but does not let us in", "RAY_AUTH_TOKEN")),
    ],
)
def test_wrong_password_is_named_without_secrets(
    native: Native, sia: Sia, variable: str, value: str, words: tuple[str, ...]
) -> None:
    wrong = replace(sia, environment={**sia.environment, variable: value})
    output = wrong("run", str(TOY), "--policy", "scripted", "--no-ui", "--generations", "1", code=8)
    assert all(word in output for word in words), output
    assert "next:" in output and "Traceback" not in output
    assert not any(secret in output for secret in _secrets(native)) and "wrong" not in output


def test_host_that_mlflow_does_not_serve_is_named(native: Native, sia: Sia) -> None:
    other = native.url("mlflow").replace("127.0.0.1", "127.0.0.1.nip.invalid")
    output = replace(sia, environment={**sia.environment, "MLFLOW_TRACKING_URI": other})("status", code=8)
    assert "cannot be reached" in output and other in output


@pytest.mark.parametrize("variable", ["MLFLOW_TRACKING_URI", "PREFECT_API_URL", "RAY_ADDRESS"])
def test_missing_server_is_named(sia: Sia, variable: str) -> None:
    address = f"127.0.0.1:{free_port()}"
    url = address if variable == "RAY_ADDRESS" else f"http://{address}"
    gone = replace(sia, environment={**sia.environment, variable: url})
    output = gone("run", str(TOY), "--policy", "scripted", "--no-ui", code=8)
    assert "cannot be reached: Connection refused" in output and variable in output
    assert "Traceback" not in output


def _secrets(native: Native) -> set[str]:
    return {value for name, value in native.variables.items() if name != "SIA_RAY_CPUS"}
