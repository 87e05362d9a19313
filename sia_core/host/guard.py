"""Guard the servers behind the UIs, on a machine that others use too, and in a browser that shows other pages too.

Both listen on the loopback, where every user of the machine can connect, and every page of your browser can send
requests. So each request needs the password of this SIA_HOME, the name of this machine as its host (which a page that
was served under another name cannot send), and no origin other than the server's own pages.

- Prefect checks the password itself, for its API and its sockets. Its pages keep it in the browser's storage.
- MLflow checks nothing, so the guard does. A browser keeps a cookie, which no script can read.

A browser logs in at `LOGIN` with a code, which is new at each start of a server, or with the password.
"""

import base64
import hashlib
import hmac
import importlib
import os
import secrets
import threading
from functools import partial
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from sia_core.host import in_use
from sia_core.host.logins import LOGIN
from sia_core.host.password import password
from sia_core.host.servers import CODE, forget
from sia_core.host.services import prefect_service

_NAMES: Final = ("127.0.0.1", "localhost", "::1")
_PAGE: Final = Path(__file__).with_name("login.html")
_PREFECT_KEY: Final = "prefect-password"
"""Place in the browser's storage where Prefect's pages look for the password."""


class Guard:
    """ASGI application that lets requests through to another one.

    Args:
        app: application behind the guard.
        health: path that answers without a password.
        checks: True to ask for the password; False where the application does.
        code: code of this start, by which a browser logs in.
        kept: entries that a browser stores at its login.
    """

    def __init__(
        self, app: ASGIApp, *, health: str, checks: bool, code: str, kept: dict[str, str] | None = None
    ) -> None:
        self._app = app
        self._health = health
        self._checks = checks
        self._codes = [text for text in (code, password(Path.cwd())) if text]
        self._kept = kept or {}
        key = password(Path.cwd()).encode()
        self._cookie = f"sia-{hashlib.sha256(key).hexdigest()[:12]}"  # Homes of one machine share the browser's jar.
        self._proof = hmac.new(key, b"cookie", hashlib.sha256).hexdigest()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Implement ASGI."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif refusal := _wrong_place(Headers(scope=scope)):
            await _refuse(refusal, scope, receive, send)
        elif scope["type"] == "http" and scope["path"] == LOGIN:
            await (await self._log_in(Request(scope, receive)))(scope, receive, send)
        elif not self._checks or scope["path"] == self._health or self._knows(Headers(scope=scope)):
            await self._app(scope, receive, send)
        elif scope["type"] == "http" and _is_page(scope):
            await RedirectResponse(f"{LOGIN}#to={scope['path']}", 303)(scope, receive, send)
        else:
            await _refuse("log in: sia ui", scope, receive, send, status=401)

    def _knows(self, headers: Headers) -> bool:
        """Return True if a request has the password or the cookie."""
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "basic":
            try:
                return _same(base64.b64decode(given).decode(), password(Path.cwd()))
            except ValueError:
                return False
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(self._cookie)
        except CookieError:
            return False
        return cookie is not None and _same(cookie.value, self._proof)

    async def _log_in(self, request: Request) -> Response:
        if request.method == "GET":
            nonce = secrets.token_urlsafe(16)
            policy = f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'"
            page = _PAGE.read_text(encoding="utf-8").replace("NONCE", nonce)
            headers = {"Content-Security-Policy": f"{policy}; form-action 'none'; frame-ancestors 'none'"}
            return HTMLResponse(
                page, headers={**headers, "Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
            )
        if request.method != "POST" or int(request.headers.get("content-length") or 10**6) > 1000:
            return PlainTextResponse("POST the code or the password", 400)
        given = (await request.body()).decode(errors="replace").strip()
        if not any(_same(given, code) for code in self._codes):
            return PlainTextResponse("this is not the password", 401)
        answer = JSONResponse(self._kept)
        if self._checks:
            answer.set_cookie(self._cookie, self._proof, httponly=True, samesite="lax")
        return answer


def prefect_server() -> Guard:
    """Make Prefect's server, guarded; it ends when nobody uses it any more."""
    os.environ["PREFECT_SERVER_API_AUTH_STRING"] = secret = password(Path.cwd())
    module = importlib.import_module("prefect.server.api.server")  # Reads its settings when it is imported.
    app = module.create_app(final=True)
    how = {"forget_server": partial(forget, prefect_service(), Path.cwd())}
    threading.Thread(target=in_use.end_when_unused, args=(Path.cwd(), "prefect"), kwargs=how, daemon=True).start()
    kept = {_PREFECT_KEY: base64.b64encode(secret.encode()).decode()}
    return Guard(app, health="/api/health", checks=False, code=os.environ.pop(CODE, ""), kept=kept)


def mlflow_server() -> Guard:
    """Make MLflow's server, guarded; `mlflow server --app-name sia` finds it as an entry point."""
    module = importlib.import_module("mlflow.server.fastapi_app")
    return Guard(module.app, health="/health", checks=True, code=os.environ.pop(CODE, ""))


def _wrong_place(headers: Headers) -> str:
    """Say what is wrong with a request's host or origin; empty if nothing is."""
    host = headers.get("host", "")
    try:
        name = urlsplit(f"//{host}").hostname
    except ValueError:
        name = None
    if name not in _NAMES:
        return "this server answers only to 127.0.0.1 and localhost"
    origin = headers.get("origin")
    own = {f"{scheme}://{one}" for scheme in ("http", "https") for one in _aliases(host)}
    return "" if origin is None or origin in own else "pages of other origins are refused"


def _aliases(host: str) -> set[str]:
    """Return the names of a host of this machine, with its port: a page may be open under one and ask another."""
    port = urlsplit(f"//{host}").port
    return {f"{name}:{port}" if port else name for name in ("127.0.0.1", "localhost", "[::1]")}


def _same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode(), expected.encode())


def _is_page(scope: Scope) -> bool:
    return scope["method"] == "GET" and "text/html" in Headers(scope=scope).get("accept", "")


async def _refuse(why: str, scope: Scope, receive: Receive, send: Send, status: int = 403) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": why})
    else:
        await PlainTextResponse(f"{why}\n", status)(scope, receive, send)
