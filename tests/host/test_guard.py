"""The guard before a server lets in the password of this SIA_HOME, this machine's names, and the server's own pages."""

import base64
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.websockets import WebSocket, WebSocketDisconnect

from sia_core.host.guard import Guard
from sia_core.host.logins import LOGIN
from sia_core.host.password import basic, password, password_file

HOST = "http://127.0.0.1:4200"
CODE = "code-of-this-start"
OWN = {"Host": "127.0.0.1:4200"}


async def page(request: Request) -> PlainTextResponse:
    """Stands for everything behind the guard."""
    return PlainTextResponse(f"secret of {request.url.path}")


async def socket(websocket: WebSocket) -> None:
    """Stands for a socket behind the guard."""
    await websocket.accept()
    await websocket.send_text("secret")
    await websocket.close()


APP = Starlette(routes=[WebSocketRoute("/ws", socket), Route("/{path:path}", page, methods=["GET", "POST", "DELETE"])])


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def client(home: Path) -> Iterator[TestClient]:
    """A browser or program that knows nothing, before a server that checks nothing itself."""
    with TestClient(Guard(APP, health="/health", checks=True, code=CODE), HOST, follow_redirects=False) as made:
        yield made


def is_open(answer: Any) -> bool:
    return answer.status_code == 200 and "secret of" in answer.text


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Basic"},
        {"Authorization": "Basic !!"},
        {"Authorization": "Bearer " + CODE},
        basic("sia:"),
        basic("sia:wrong"),
        basic(CODE),
        {"Cookie": "sia-0=x; sia=1"},
        {"Cookie": ";;=,\x7f"},
    ],
    ids=str,
)
def test_request_without_the_password_is_refused(client: TestClient, method: str, headers: dict[str, str]) -> None:
    for path in ("/", "/api/2.0/mlflow/runs/create", "/health/", "/%68ealth/x", "//health", "/sia/login/"):
        answer = client.request(method, path, headers=headers)
        assert answer.status_code == 401 and "secret" not in answer.text, path


def test_password_lets_a_program_in(client: TestClient, home: Path) -> None:
    assert is_open(client.get("/anything", headers=basic(password(home))))
    assert is_open(client.get("/health"))


def test_password_is_a_file_of_yours_alone(home: Path) -> None:
    text = password(home)
    assert re.fullmatch(r"sia:[\w-]{43}", text) and password(home) == text
    assert password_file(home).stat().st_mode & 0o777 == 0o600
    assert password_file(home).parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("host", ["evil.example", "evil.example:4200", "127.0.0.1.evil.example", "192.0.2.2:4200", ""])
def test_other_host_name_is_refused(client: TestClient, home: Path, host: str) -> None:
    """A page that was served under another name may ask this machine under that name: its origin is not foreign."""
    assert client.get("/", headers={**basic(password(home)), "Host": host}).status_code == 403
    assert client.get("/health", headers={"Host": host}).status_code == 403


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:9", "http://127.0.0.1", "file://"])
def test_page_of_another_origin_is_refused(client: TestClient, home: Path, origin: str) -> None:
    headers = {**basic(password(home)), "Origin": origin}
    for method in ("GET", "POST", "OPTIONS"):
        answer = client.request(method, "/", headers=headers)
        assert answer.status_code == 403 and "access-control-allow-origin" not in answer.headers
    assert client.post(LOGIN, content=CODE, headers={"Origin": origin}).status_code == 403


@pytest.mark.parametrize("origin", ["http://127.0.0.1:4200", "http://localhost:4200"])
def test_own_pages_are_served_under_both_names_of_this_machine(client: TestClient, home: Path, origin: str) -> None:
    assert is_open(client.post("/", headers={**basic(password(home)), "Origin": origin}))


def test_browser_logs_in_with_a_code_and_keeps_a_cookie(client: TestClient, home: Path) -> None:
    sent = client.get("/#/runs", headers={"Accept": "text/html"})
    assert (sent.status_code, sent.headers["location"]) == (303, f"{LOGIN}#to=/")
    assert client.post(LOGIN, content="wrong").status_code == 401
    assert client.get("/").status_code == 401
    answer = client.post(LOGIN, content=CODE)
    cookie = answer.headers["set-cookie"]
    assert answer.json() == {} and "HttpOnly" in cookie and "SameSite=lax" in cookie
    assert password(home).partition(":")[2] not in cookie
    assert is_open(client.get("/"))


def test_browser_logs_in_with_the_password(client: TestClient, home: Path) -> None:
    assert client.post(LOGIN, content=password(home) + "\n").status_code == 200
    assert is_open(client.get("/"))


@pytest.mark.parametrize("content", [b"", b"x" * 2000, b"\xff\xfe", "sia:é".encode()])
def test_login_refuses_anything_else(client: TestClient, content: bytes) -> None:
    assert client.post(LOGIN, content=content).status_code in (400, 401)
    assert client.put(LOGIN, content=CODE).status_code == 400


def test_empty_code_lets_nobody_in(home: Path) -> None:
    with TestClient(Guard(APP, health="/health", checks=True, code=""), HOST) as client:
        assert client.post(LOGIN, content="").status_code == 401


def test_login_page_runs_no_other_script_and_is_never_framed(client: TestClient) -> None:
    answer = client.get(LOGIN)
    policy = answer.headers["content-security-policy"]
    (nonce,) = set(re.findall(r'nonce="([^"]+)"', answer.text))
    assert f"script-src 'nonce-{nonce}'" in policy and "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy and "NONCE" not in answer.text
    assert re.findall(r'nonce="([^"]+)"', client.get(LOGIN).text)[0] != nonce


def test_application_that_checks_itself_gets_the_entry_for_its_pages(home: Path) -> None:
    kept = {"prefect-password": base64.b64encode(b"sia:x").decode()}
    with TestClient(Guard(APP, health="/health", checks=False, code=CODE, kept=kept), HOST) as client:
        assert is_open(client.get("/api/x"))
        assert client.post(LOGIN, content=CODE).json() == kept
        assert client.post(LOGIN, content="wrong").status_code == 401


def test_socket_of_a_foreign_page_is_refused(home: Path) -> None:
    with TestClient(Guard(APP, health="/health", checks=False, code=CODE), HOST) as client:
        with client.websocket_connect("/ws", headers=OWN) as open_socket:
            assert open_socket.receive_text() == "secret"
        for headers in ({**OWN, "Origin": "http://evil.example"}, {"Host": "evil.example"}):
            with (
                pytest.raises((WebSocketDisconnect, WebSocketDenialResponse)),
                client.websocket_connect("/ws", headers=headers),
            ):
                pytest.fail("it is open")


def test_socket_without_the_password_is_refused(client: TestClient, home: Path) -> None:
    with pytest.raises((WebSocketDisconnect, WebSocketDenialResponse)), client.websocket_connect("/ws", headers=OWN):
        pytest.fail("it is open")
    with client.websocket_connect("/ws", headers={**OWN, **basic(password(home))}) as open_socket:
        assert open_socket.receive_text() == "secret"
