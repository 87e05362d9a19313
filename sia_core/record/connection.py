"""Opening an MLflow store: a client that was let in, or what is wrong and what to type.

A server that has answered this process is waited for (`patience`); one that never has is refused within seconds.
"""

import os
from functools import cache
from http import HTTPStatus
from pathlib import Path

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from sia_core.domain.errors import RecordError, ServiceError, SiaError
from sia_core.host.external import check_mlflow, is_http, masked
from sia_core.record.patience import Waiting, bound_requests, patient

_ROOT = "MLFLOW_DEFAULT_ARTIFACT_ROOT"
"""The variable by which `mlflow server` takes it too."""


def connect(tracking_uri: str, waiting: Waiting) -> MlflowClient:
    """A client of the store, whose calls wait, after one request has shown that it works.

    Raises:
        ServiceError: a server, or a database server, that cannot be reached or does not let us in.
        RecordError: a file that is no store.
    """
    bound_requests()
    if is_http(tracking_uri):
        _see_server(tracking_uri)
        return patient(_client(tracking_uri), waiting)
    return patient(waiting(lambda: _opened(tracking_uri)), waiting)


@cache  # Errors are not kept: it is asked until it has answered once.
def _see_server(tracking_uri: str) -> None:
    check_mlflow({**os.environ, "MLFLOW_TRACKING_URI": tracking_uri})
    _opened(tracking_uri)


def _opened(tracking_uri: str) -> MlflowClient:
    try:
        client = _client(tracking_uri)
        client.search_experiments(max_results=1)
    except Exception as error:  # Client, SQLAlchemy, Alembic and HTTP each raise their own.
        raise _unusable(tracking_uri, error) from error
    return client


def _client(tracking_uri: str) -> MlflowClient:
    """With the registry of the same store: MLflow takes the one that this process used last, if it is not told."""
    return MlflowClient(tracking_uri, tracking_uri)


def artifact_root(tracking_uri: str, home: Path) -> str | None:
    """Where a new experiment's artifacts go; None leaves it to the server.

    A database has no say in it, and MLflow would put them below the directory one happens to be in.
    """
    return None if is_http(tracking_uri) else os.environ.get(_ROOT) or (home / "artifacts").as_uri()


def _unusable(uri: str, error: Exception) -> SiaError:
    where, said = masked(uri), " ".join(str(error).split())[:500]
    code = 0
    if isinstance(error, MlflowException):
        code = int(error.get_http_status_code())  # type: ignore[no-untyped-call]
    if not is_http(uri):
        kind = RecordError if uri.startswith("sqlite:") else ServiceError
        hint = "check MLFLOW_TRACKING_URI, or unset it to use SQLite under SIA_HOME"
        return kind(f"MLflow cannot be used: {said}", where=where, hint=hint)
    if code == HTTPStatus.FORBIDDEN and "host" in said.lower():
        hint = "start the server with --allowed-hosts and this host in it"
        return ServiceError(f"MLflow does not serve this host name: {said}", where=where, hint=hint)
    if code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        user = os.environ.get("MLFLOW_TRACKING_USERNAME")
        given = f"as {user}" if user else "no user was given"
        hint = "export MLFLOW_TRACKING_USERNAME=... MLFLOW_TRACKING_PASSWORD=..., or MLFLOW_TRACKING_TOKEN"
        return ServiceError(f"MLflow does not let us in (HTTP {code}; {given})", where=where, hint=hint)
    hint = "see that it is an MLflow server of version 3 and that MLFLOW_TRACKING_URI is right"
    return ServiceError(f"MLflow cannot be used: {said}", where=where, hint=hint)
