"""Servers that the environment names: an MLflow, a Prefect and a Ray somewhere else.

They are named by their libraries' own variables, so that what works with `mlflow`, `prefect` and `ray` works with
`sia`. Each is asked once, within seconds, before anything is spent: the libraries themselves would try for minutes and
end in a traceback. MLflow's password is judged by MLflow's own client (`record/`), Ray's token by Ray
(`engine/cluster.py`), because both know more ways to log in than are worth repeating here. No secret is ever shown.
"""

import json
import os
import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit, urlunsplit

import psutil

from sia_core.domain.errors import ServiceError
from sia_core.host.machine.proxies import proxy_for
from sia_core.host.password import basic

TIMEOUT_S: Final = 10.0
SECRETS: Final = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "PREFECT_API_AUTH_STRING", "PREFECT_API_KEY")
"""Variables that only the driver needs."""
_BODY_BYTES: Final = 2000
_DATABASES: Final = {"sqlite": 0, "postgresql": 5432, "mysql": 3306, "mssql": 1433}
"""Databases that MLflow takes, and the ports on which their servers listen by default."""
_RAY: Final = ("raylet", "gcs_server")
"""Names of a Ray node's processes."""
_ON = ("1", "true", "yes", "on")
_OWN_PREFECT: Final = "SIA_OWN_PREFECT"
"""Variable with the address of SIA's own server, by which PREFECT_API_URL is known not to come from you."""
_CLOUD: Final = "/accounts/"
"""Part of the address of a hosted Prefect, which has fewer routes."""


@dataclass(frozen=True)
class Server:
    """One server and how it is reached."""

    name: str
    variable: str
    """Environment variable that names the server."""
    address: str
    """Address without user and password."""
    access: str = ""
    """Way to log in: `as alice`, `with a token`."""

    def __str__(self) -> str:
        return " ".join(part for part in (self.name, self.address, self.access) if part)


def mlflow_server(environment: Mapping[str, str] = os.environ) -> Server | None:
    """The MLflow of MLFLOW_TRACKING_URI."""
    uri = environment.get("MLFLOW_TRACKING_URI", "")
    if not uri:
        return None
    user = environment.get("MLFLOW_TRACKING_USERNAME") or urlsplit(uri).username
    token = environment.get("MLFLOW_TRACKING_TOKEN")
    access = f"as {user}" if user else "with a token" if token else ""
    return Server("MLflow", "MLFLOW_TRACKING_URI", masked(uri), access)


def prefect_server(environment: Mapping[str, str] = os.environ) -> Server | None:
    """The Prefect of PREFECT_API_URL, unless `use_own_prefect` has set the variable."""
    url = environment.get("PREFECT_API_URL", "")
    if not url or url == environment.get(_OWN_PREFECT):
        return None
    key, secret = environment.get("PREFECT_API_KEY"), environment.get("PREFECT_API_AUTH_STRING")
    access = "with an auth string" if secret else "with an API key" if key else ""
    return Server("Prefect", "PREFECT_API_URL", masked(url), access)


def use_own_prefect(url: str, password: str, environment: MutableMapping[str, str] = os.environ) -> None:
    """Point Prefect's client, here and in child processes, at the server that SIA runs on this machine.

    Args:
        url: address of its API.
        password: its auth string.
        environment: variables that Prefect's client reads.
    """
    environment["PREFECT_API_URL"] = environment[_OWN_PREFECT] = url
    environment["PREFECT_API_AUTH_STRING"] = password


def prefect_ui(api: str, environment: Mapping[str, str] = os.environ) -> str:
    """Return the address of the pages that belong to a Prefect API."""
    if named := environment.get("PREFECT_UI_URL", ""):
        return masked(named)
    if _CLOUD in api:  # The pages of the hosted Prefect have a host and paths of their own.
        page = api.replace("://api.", "://app.").replace("/api/accounts/", "/account/")
        return page.replace("/workspaces/", "/workspace/")
    return api.removesuffix("/api")


def knows_flow_run(api: str, flow_run: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Return True if the Prefect at this address answers and has the flow run."""
    server = prefect_server(environment) or Server("Prefect", "PREFECT_API_URL", api)
    try:
        tls = _tls(server, *_prefect_tls(environment))
        return _ask(server, f"/flow_runs/{flow_run}", tls, _prefect_headers(environment))[0] == 200
    except ServiceError:
        return False


def ray_cluster(environment: Mapping[str, str] = os.environ) -> Server | None:
    """The Ray of RAY_ADDRESS."""
    address = environment.get("RAY_ADDRESS", "")
    if address in ("", "local"):
        return None
    access = "with a token" if environment.get("RAY_AUTH_MODE") == "token" else ""
    return Server("Ray", "RAY_ADDRESS", masked(address), access)


def describe(home: Path, environment: Mapping[str, str] = os.environ) -> str:
    """Name the servers that a command uses, in one line."""
    used = (
        mlflow_server(environment) or f"MLflow in {home}",
        prefect_server(environment) or "Prefect on this machine",
        ray_cluster(environment) or "Ray on this machine",
    )
    return " · ".join(map(str, used))


def check_all(environment: Mapping[str, str] = os.environ) -> None:
    """Ask each server that the environment names.

    Raises:
        ServiceError: one cannot be reached, is something else, or does not let us in.
    """
    check_mlflow(environment)
    check_prefect(environment)
    check_ray(environment)


def check_mlflow(environment: Mapping[str, str] = os.environ) -> None:
    """See that an MLflow server answers. One on a database is judged by opening it.

    Raises:
        ServiceError: it does not.
    """
    server = mlflow_server(environment)
    if server is None:
        return
    if not is_http(server.address):
        _check_store(server, environment)
        return
    insecure = environment.get("MLFLOW_TRACKING_INSECURE_TLS", "")
    bundle = environment.get("MLFLOW_TRACKING_SERVER_CERT_PATH") or environment.get("REQUESTS_CA_BUNDLE")
    code, _ = _ask(server, "/health", _tls(server, insecure, bundle))
    if code >= 500:
        raise ServiceError(f"{server.name} answers with HTTP {code}", where=server.address, hint=_see(server))


def _check_store(server: Server, environment: Mapping[str, str]) -> None:
    """See that a database listens, and refuse what MLflow no longer takes as a store."""
    split = urlsplit(server.address)
    if not is_database(server.address):
        files = split.scheme in ("", "file")
        if files and environment.get("MLFLOW_ALLOW_FILE_STORE", "").lower() not in _ON:
            hint = f"unset {server.variable} to use SQLite under SIA_HOME, or export {server.variable}=sqlite:////FILE"
            raise ServiceError("MLflow no longer keeps runs in a directory", where=server.address, hint=hint)
        return
    port = _DATABASES.get(split.scheme.partition("+")[0])
    if split.hostname and port:
        _connect(server, split.hostname, split.port or port)


def _connect(server: Server, host: str, port: int) -> None:
    try:
        socket.create_connection((host, port), timeout=TIMEOUT_S).close()
    except (OSError, ValueError) as error:
        what = f"{server.name} cannot be reached: {_reason(error)}"
        hint = f"{_see(server)}; or unset {server.variable} to use this machine"
        raise ServiceError(what, where=server.address, hint=hint) from error


def check_prefect(environment: Mapping[str, str] = os.environ) -> None:
    """See that a Prefect server answers and lets us in.

    Raises:
        ServiceError: it does not.
    """
    server = prefect_server(environment)
    if server is None:
        return
    tls = _tls(server, *_prefect_tls(environment))
    # No route that changes anything, which a server may want a CSRF token for.
    path, body = ("/flows/count", b"{}") if _CLOUD in server.address else ("/admin/version", None)
    code, _ = _ask(server, path, tls, _prefect_headers(environment), body)
    if code in (401, 403):
        raise ServiceError(
            f"Prefect does not let us in (HTTP {code}; {server.access or 'no auth string was given'})",
            where=server.address,
            hint="export PREFECT_API_AUTH_STRING=USER:PASSWORD, as in the server's PREFECT_SERVER_API_AUTH_STRING",
        )
    if code == 404:
        hint = "PREFECT_API_URL ends with /api, e.g. http://HOST:4200/api"
        raise ServiceError("no Prefect API is here (HTTP 404)", where=server.address, hint=hint)
    if code >= 400:
        raise ServiceError(f"Prefect answers with HTTP {code}", where=server.address, hint=_see(server))


def check_ray(environment: Mapping[str, str] = os.environ) -> None:
    """See that a server listens at the cluster's address; Ray itself would try for half a minute.

    Raises:
        ServiceError: no server listens there, or no Ray runs on this machine for the address `auto`.
    """
    server = ray_cluster(environment)
    if server is None:
        return
    if server.address == "auto":
        if not any(process.info["name"] in _RAY for process in psutil.process_iter(["name"])):
            hint = "start one (ray start --head), or unset RAY_ADDRESS: each run then has a Ray of its own"
            raise ServiceError("no Ray runs on this machine", where="RAY_ADDRESS=auto", hint=hint)
        return
    split = urlsplit(server.address if "://" in server.address else f"ray://{server.address}")
    try:
        host, port = split.hostname or "", split.port or 10001
    except ValueError as error:
        hint = "export RAY_ADDRESS=HOST:PORT, or unset it to use this machine"
        raise ServiceError(f"Ray cannot be reached: {error}", where=server.address, hint=hint) from error
    _connect(server, host, port)


def masked(address: str) -> str:
    """An address without user and password."""
    try:
        split = urlsplit(address)
    except ValueError:
        return address
    if "@" not in split.netloc:
        return address.rstrip("/")
    return urlunsplit(split._replace(netloc=split.netloc.rpartition("@")[2])).rstrip("/")


def is_http(address: str) -> bool:
    """Return True if the address is that of a server that speaks HTTP."""
    return address.startswith(("http://", "https://"))


def is_database(address: str) -> bool:
    """Return True if the address is that of a database which MLflow can use as a store."""
    return address.partition(":")[0].partition("+")[0] in _DATABASES


def absolute_database(address: str) -> str:
    """Return the address with the path of a SQLite file made absolute, for a process in another directory."""
    scheme, found, path = address.partition(":///")
    if not found or not scheme.startswith("sqlite") or path.startswith("/"):
        return address
    return f"{scheme}:///{Path(path).absolute()}"


def _prefect_tls(environment: Mapping[str, str]) -> tuple[str, str | None]:
    return environment.get("PREFECT_API_TLS_INSECURE_SKIP_VERIFY", ""), environment.get("PREFECT_API_SSL_CERT_FILE")


def _prefect_headers(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the headers that Prefect's own client sends."""
    headers: dict[str, str] = {}
    try:
        custom = json.loads(environment.get("PREFECT_CLIENT_CUSTOM_HEADERS", "") or "{}")
        headers |= {str(name): str(value) for name, value in custom.items()}
    except (ValueError, AttributeError):
        pass  # Prefect itself says what is wrong with them.
    if secret := environment.get("PREFECT_API_AUTH_STRING"):
        headers |= basic(secret)
    elif key := environment.get("PREFECT_API_KEY"):
        headers["Authorization"] = f"Bearer {key}"
    return headers


def _tls(server: Server, insecure: str, bundle: str | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=bundle or None)
    except OSError as error:
        hint = "name a file of certificates, or unset it"
        raise ServiceError(f"{bundle} cannot be read: {error}", where=f"{server.name}, TLS", hint=hint) from error
    if insecure.lower() in _ON:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _ask(
    server: Server, path: str, tls: ssl.SSLContext, headers: Mapping[str, str] | None = None, body: bytes | None = None
) -> tuple[int, str]:
    """Return status and beginning of any reply.

    Raises:
        ServiceError: there is no reply.
    """
    try:
        sent = {"Content-Type": "application/json", "User-Agent": "sia", **(headers or {})}
        request = urllib.request.Request(server.address + path, data=body, headers=sent)
        with urllib.request.urlopen(request, timeout=TIMEOUT_S, context=tls) as reply:
            return reply.status, reply.read(_BODY_BYTES).decode(errors="replace")
    except urllib.error.HTTPError as error:
        return error.code, error.read(_BODY_BYTES).decode(errors="replace")
    except (OSError, ValueError) as error:  # URLError is an OSError; ValueError: not an address at all.
        proxy = proxy_for(server.address)
        through = f" through the proxy {proxy}" if proxy else ""
        what = f"{server.name} cannot be reached{through}: {_reason(error)}"
        spare = f"export NO_PROXY={urlsplit(server.address).hostname} if no proxy is needed; or " if proxy else ""
        hint = f"{spare}{_see(server)}; or unset {server.variable} to use this machine"
        raise ServiceError(what, where=server.address, hint=hint) from error


def _reason(error: BaseException) -> str:
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, TimeoutError):
        return f"no answer in {TIMEOUT_S:g} s"
    return str(getattr(cause, "strerror", None) or cause)


def _see(server: Server) -> str:
    return f"see that it runs and that {server.variable} is right"
