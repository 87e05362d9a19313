"""Open an MLflow store: return a working client, or say what is wrong and what you can type.

Once a server has answered this process, calls wait through its outages (`patience`). A server that has never answered
is refused within seconds.
"""

import os
from functools import cache
from http import HTTPStatus

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from sia_core.domain.errors import RecordError, ServiceError, SiaError
from sia_core.host.external import check_mlflow, is_http, masked
from sia_core.record.patience import Waiting, bound_requests, patient


def connect(tracking_uri: str, waiting: Waiting) -> MlflowClient:
    """Return a client whose calls wait through outages, after one successful request.

    Raises:
        ServiceError: the MLflow or database server cannot be reached or denies access.
        RecordError: the file is not a store.
    """
    bound_requests()
    if is_http(tracking_uri):
        _see_server(tracking_uri)
        return patient(_client(tracking_uri), waiting)
    return patient(waiting(lambda: _opened(tracking_uri)), waiting)


@cache  # Errors are not cached: each call asks until the server has answered once.
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
    """Use the registry of the same store; by default MLflow takes the one that this process used last."""
    return MlflowClient(tracking_uri, tracking_uri)


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
    hint = "check MLFLOW_TRACKING_URI and that its server is MLflow version 3"
    return ServiceError(f"MLflow cannot be used: {said}", where=where, hint=hint)
