"""Hosts that a command may reach, as you name them.

`api.example.com` allows a host on port 443, `*.example.com` all its subdomains, `host:port` another port, and `*` every
public host on ports 80 and 443. An address of this machine or of a private network is allowed only by an entry with
host and port, such as `127.0.0.1:8000`.
"""

import ipaddress
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from sia_core.domain.errors import UsageError

_HOST = re.compile(r"(\*|(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")
_WEB = (80, 443)


class RefusedError(Exception):
    """A host is not allowed, for the reason in the message."""


@dataclass(frozen=True)
class Allowed:
    """One entry of the list."""

    host: str
    ports: tuple[int, ...]
    exact: bool
    """True if the entry names one host and port, which allows a private address too."""

    @classmethod
    def parse(cls, text: str) -> "Allowed":
        """Parse one entry.

        Raises:
            UsageError: the entry names no host.
        """
        if not _HOST.fullmatch(text):
            hint = "name hosts, such as api.example.com, *.example.com or 127.0.0.1:8000, or * for all public ones"
            raise UsageError(f"{text!r} names no host", where="--agent-network", hint=hint)
        host, _, port = (
            text.rpartition(":") if re.search(r":[0-9]+$", text) and not text.endswith("]") else (text, "", "")
        )
        host = host.strip("[]").casefold()
        ports = (int(port),) if port else _WEB if host == "*" else (443,)
        return cls(host, ports, bool(port) and "*" not in host)

    def holds(self, host: str, port: int) -> bool:
        """Return True if the entry allows this host and port, judged by the name alone."""
        if port not in self.ports:
            return False
        return self.host in ("*", host) or (self.host.startswith("*.") and host.endswith(self.host[1:]))


def connect(host: str, port: int, allowed: Sequence[Allowed], timeout: float) -> socket.socket:
    """Connect to an allowed host, by the same address that was checked.

    Raises:
        RefusedError: the host is not allowed.
        OSError: the host cannot be reached.
    """
    host = host.strip("[]").casefold().rstrip(".")
    holding = [one for one in allowed if one.holds(host, port)]
    if not holding:
        raise RefusedError(f"{host}:{port} is not among the hosts that this command may reach")
    exact = any(one.exact for one in holding)
    failure: OSError = OSError(f"{host} has no address")
    private = False
    for family, kind, number, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        if not exact and not _public(str(address[0])):
            private = True
            continue
        made = socket.socket(family, kind, number)
        made.settimeout(timeout)
        try:
            made.connect(address)
        except OSError as error:
            made.close()
            failure = error
        else:
            return made
    if private:
        raise RefusedError(f"{host} is an address of this machine or of a private network")
    raise failure


def _public(address: str) -> bool:
    found = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(found, "ipv4_mapped", None)
    return bool((mapped or found).is_global) and not found.is_multicast
