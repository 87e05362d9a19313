"""Servers that the environment names: which they are, and what is said when they cannot be used."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sia_core.domain.errors import ServiceError
from sia_core.host.external import check_all, check_mlflow, check_prefect, check_ray, describe, masked
from tests.services.daemon import free_port

Seen = list[tuple[str, dict[str, str]]]


@contextmanager
def server(code: int) -> Iterator[tuple[str, Seen]]:
    """One that answers everything with this code; its address, and what it was asked."""
    seen: Seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
            self.send_response(code)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        do_POST = do_GET  # noqa: N815  (the library's name)

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{made.server_port}", seen
    finally:
        made.shutdown()
        made.server_close()


def test_servers_in_use_are_described() -> None:
    home = Path("/home/me/.sia")
    assert describe(home, {}) == "MLflow in /home/me/.sia · Prefect on this machine · Ray on this machine"
    assert describe(home, {"RAY_ADDRESS": "local"}).endswith("Ray on this machine")
    named = {
        "MLFLOW_TRACKING_URI": "http://mlflow:5000/",
        "MLFLOW_TRACKING_USERNAME": "alice",
        "MLFLOW_TRACKING_PASSWORD": "secret-1",
        "PREFECT_API_URL": "http://prefect:4200/api",
        "PREFECT_API_AUTH_STRING": "bob:secret-2",
        "RAY_ADDRESS": "head:6379",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "secret-3",
    }
    assert describe(home, named) == (
        "MLflow http://mlflow:5000 as alice · Prefect http://prefect:4200/api with an auth string · "
        "Ray head:6379 with a token"
    )


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://me:pw@host:5000/sub/", "https://host:5000/sub"),
        ("postgresql+psycopg2://me:p%40w@db/mlflow", "postgresql+psycopg2://db/mlflow"),
        ("sqlite:////home/me/mlflow.db", "sqlite:////home/me/mlflow.db"),
        ("http://[::1", "http://[::1"),
    ],
)
def test_masked_address_holds_no_password(address: str, shown: str) -> None:
    assert masked(address) == shown


def test_prefect_gets_what_its_own_client_would_send() -> None:
    with server(200) as (url, seen):
        check_prefect({"PREFECT_API_URL": f"{url}/api", "PREFECT_API_AUTH_STRING": "me:pw"})
        check_prefect({"PREFECT_API_URL": f"{url}/api/", "PREFECT_API_KEY": "key"})
        check_prefect({"PREFECT_API_URL": f"{url}/api", "PREFECT_CLIENT_CUSTOM_HEADERS": '{"X-Proxy": "let me in"}'})
    assert [path for path, _ in seen] == ["/api/admin/version"] * 3
    assert [headers.get("authorization") for _, headers in seen] == ["Basic bWU6cHc=", "Bearer key", None]
    assert seen[2][1]["x-proxy"] == "let me in"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (401, ("does not let us in", "no auth string was given", "PREFECT_API_AUTH_STRING")),
        (404, ("no Prefect API", "ends with /api")),
        (503, ("HTTP 503", "PREFECT_API_URL")),
    ],
)
def test_refusing_prefect_is_reported(code: int, words: tuple[str, ...]) -> None:
    with server(code) as (url, _), pytest.raises(ServiceError) as caught:
        check_prefect({"PREFECT_API_URL": url})
    assert all(word in str(caught.value) for word in words), caught.value
    assert caught.value.where == url and caught.value.exit_code == 8


def test_mlflow_answers_or_not() -> None:
    with server(404) as (url, seen):  # Behind a prefix or a proxy there may be no /health; its own client decides.
        check_mlflow({"MLFLOW_TRACKING_URI": url})
    assert seen[0][0] == "/health"
    with server(502) as (url, _), pytest.raises(ServiceError, match="HTTP 502"):
        check_mlflow({"MLFLOW_TRACKING_URI": url})
    check_mlflow({"MLFLOW_TRACKING_URI": "sqlite:///nowhere.db"})


@pytest.mark.parametrize(
    ("variable", "address"),
    [
        ("MLFLOW_TRACKING_URI", "http://127.0.0.1:{port}"),
        ("PREFECT_API_URL", "http://127.0.0.1:{port}/api"),
        ("RAY_ADDRESS", "127.0.0.1:{port}"),
        ("RAY_ADDRESS", "ray://127.0.0.1:{port}"),
    ],
)
def test_absent_server_is_reported(variable: str, address: str) -> None:
    named = {variable: address.format(port=free_port())}
    with pytest.raises(ServiceError, match="cannot be reached: Connection refused") as caught:
        check_all(named)
    assert variable in caught.value.hint and "unset" in caught.value.hint


@pytest.mark.parametrize("address", ["http://", "http://[::1", "http://no-such-host.invalid", "not an address"])
def test_not_an_address(address: str) -> None:
    with pytest.raises(ServiceError, match="Prefect cannot be reached"):
        check_prefect({"PREFECT_API_URL": address})


def test_certificates_that_are_not_there() -> None:
    named = {"MLFLOW_TRACKING_URI": "https://127.0.0.1", "MLFLOW_TRACKING_SERVER_CERT_PATH": "/nowhere.pem"}
    with pytest.raises(ServiceError, match=r"/nowhere\.pem cannot be read"):
        check_mlflow(named)


def test_ray_of_this_machine_is_not_asked() -> None:
    for address in ("", "local"):
        check_ray({"RAY_ADDRESS": address})
