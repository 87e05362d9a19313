"""Classify errors of the MLflow client: transient server failure (retry) or anything else (raise).

MLflow keeps its libraries' errors as cause or context, and of several failed downloads only the texts.
"""

import re
from typing import Final

import requests
import sqlalchemy.exc
from mlflow.exceptions import MlflowException, RestException

from sia_core.host.disk import chain, is_full

_TRANSIENT: Final = (408, 429, 500, 502, 503, 504)
_CAUSES: Final = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError, ConnectionError)
_DATABASE: Final = (sqlalchemy.exc.OperationalError, sqlalchemy.exc.InterfaceError)
_DOWNLOADS: Final = "The following failures occurred while downloading"
"""First words of an MLflow error that holds only the texts of other errors."""
_SERVER: Final = re.compile(
    r"timed out|Max retries exceeded|Connection (refused|reset|aborted|broken)|RemoteDisconnected|5\d\d Server Error"
)


def fault(error: BaseException) -> str | None:
    """Describe the server's fault in a few words; None where the error is not the server's."""
    if is_full(error):
        return None
    for one in chain(error):
        if isinstance(one, RestException):
            code = int(one.get_http_status_code())  # type: ignore[no-untyped-call]
            return f"HTTP {code}" if code in _TRANSIENT else None
        if isinstance(one, requests.exceptions.RetryError):
            status = re.search(r"too many (\d+) error", str(one))
            return f"HTTP {status[1]}" if status else "HTTP errors"
        if isinstance(one, requests.HTTPError):
            code = one.response.status_code if one.response is not None else 0
            return f"HTTP {code}" if code in _TRANSIENT else None
        if isinstance(one, requests.Timeout | TimeoutError):
            return "no answer in time"
        if isinstance(one, _CAUSES) or _is_of_s3(one):
            return _connection(str(one))
        if isinstance(one, _DATABASE):
            return _database(one)
        if isinstance(one, MlflowException) and str(one).startswith(_DOWNLOADS):
            told = _SERVER.search(str(one))
            return told[0] if told else None
    return None


def _is_of_s3(error: BaseException) -> bool:
    """Return True for a connection error of boto3, which is installed only for stores with artifacts in a bucket."""
    kinds = [kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "botocore.exceptions"]
    return "ConnectionError" in kinds or "HTTPClientError" in kinds


def _connection(text: str) -> str:
    """Return the readable words of a urllib3 error."""
    known = ("Connection refused", "Connection reset", "timed out", "without response", "Name or service not known")
    return next((words for words in known if words in text), "connection lost")


def _database(error: sqlalchemy.exc.DBAPIError) -> str | None:
    if type(error.orig).__module__ != "sqlite3":
        return f"its database: {' '.join(str(error.orig).split())[:200]}"
    return "its database is locked" if "locked" in str(error.orig) else None
