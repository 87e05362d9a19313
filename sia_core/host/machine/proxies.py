"""Proxies of the user: kept for the world, never used for servers of this machine.

Prefect, MLflow, Ray, gRPC, `requests`, `httpx` and `urllib` read the same variables. A proxy cannot reach the loopback
of this machine, so the loopback is added to NO_PROXY of this process, which all processes that it starts inherit.
"""

import os
from collections.abc import Mapping, MutableMapping
from importlib.util import find_spec
from typing import Any, Final
from urllib.parse import urlsplit

from sia_core.domain.errors import ServiceError
from sia_core.host.machine.condition import Condition

LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
VARIABLES: Final = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
_SPARED: Final = ("NO_PROXY", "no_proxy")
_GRPC: Final = ("grpc_proxy", "no_grpc_proxy")
_SCHEMES: Final = ("http", "https", "socks4", "socks5", "socks5h")


def spare_loopback(environment: MutableMapping[str, str] = os.environ) -> None:
    """Add the loopback to NO_PROXY if a proxy is named. Idempotent."""
    if not proxies(environment) and not environment.get(_GRPC[0]):
        return
    # Libraries differ in the case that they read first, so that both hold the names of both.
    listed = [part.strip() for name in _SPARED for part in environment.get(name, "").split(",") if part.strip()]
    for name in _SPARED:
        environment[name] = _with_loopback(listed)
    if _GRPC[0] in environment or _GRPC[1] in environment:
        own = [part.strip() for part in environment.get(_GRPC[1], "").split(",") if part.strip()]
        environment[_GRPC[1]] = _with_loopback([*own, *listed])


def _with_loopback(listed: list[str]) -> str:
    return "*" if "*" in listed else ",".join(dict.fromkeys([*listed, *LOOPBACK]))


def proxies(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the proxies that are named, by variable. A lower-case variable comes before its upper-case twin."""
    found = {}
    for upper in VARIABLES:
        for name in (upper.lower(), upper):
            if value := environment.get(name, "").strip():
                found[name] = value
                break
    return found


def proxy_for(url: str, environment: Mapping[str, str] = os.environ) -> str:
    """Return the variable and address of the proxy that a request to `url` takes, or an empty text."""
    try:
        split = urlsplit(url)
    except ValueError:  # No address at all.
        return ""
    import urllib.request  # Slow to load for `sia --help`.

    spared = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    bypass: Any = getattr(urllib.request, "proxy_bypass_environment")  # noqa: B009  (the type stubs lack it)
    if bypass(split.netloc.rpartition("@")[2], {"no": spared}):
        return ""
    named = proxies(environment)
    for wanted in (f"{split.scheme}_proxy", "all_proxy"):
        for name, address in named.items():
            if name.lower() == wanted:
                return f"{name}={masked_proxy(address)}"
    return ""


def masked_proxy(address: str) -> str:
    """Return a proxy's address without user and password."""
    scheme, found, rest = address.rpartition("://")
    return f"{scheme}{found}{rest.rpartition('@')[2]}"


def check_proxies(environment: Mapping[str, str] = os.environ) -> Condition:
    """Check that the libraries can be imported and used with these proxies.

    Raises:
        ServiceError: a proxy has no usable address, or needs a package that is not installed.
    """
    named = proxies(environment)
    for name, address in named.items():
        shown = masked_proxy(address)
        split = urlsplit(address if "://" in address else f"http://{address}")
        try:
            usable = split.scheme in _SCHEMES and bool(split.hostname) and (split.port or 1) > 0
        except ValueError:
            usable = False
        if not usable:
            hint = f"export {name}=http://HOST:PORT, or unset {name}"
            raise ServiceError(f"{shown!r} is not the address of a proxy", where=name, hint=hint)
        if split.scheme.startswith("socks"):
            _check_socks(name, shown, split.scheme)
    if not named:
        return Condition("none")
    listed = ", ".join(f"{name}={masked_proxy(address)}" for name, address in named.items())
    return Condition(f"{listed}; not used for servers of this machine")


def _check_socks(name: str, shown: str, scheme: str) -> None:
    if scheme == "socks4":
        hint = f"export {name}=socks5://HOST:PORT, or unset {name}"
        raise ServiceError(f"{shown}: Prefect's client knows no SOCKS 4", where=name, hint=hint)
    missing = [package for package in ("socksio", "socks") if find_spec(package) is None]
    if missing:
        hint = f"pip install 'httpx[socks]' 'requests[socks]', or unset {name}"
        raise ServiceError(f"{shown} is a SOCKS proxy, which needs a package that is missing", where=name, hint=hint)
