"""Check the loopback, by which the servers of a run and Ray's processes reach each other.

All of them use the address 127.0.0.1. So neither IPv6 nor a name for this machine is needed, and a firewall or a VPN
does not come between them.
"""

import socket

from sia_core.domain.errors import ServiceError
from sia_core.host.machine.condition import Condition

ADDRESS = "127.0.0.1"
_TIMEOUT_S = 2.0


def check_loopback() -> Condition:
    """Check that a process can connect to another one on this machine.

    Raises:
        ServiceError: it cannot.
    """
    try:
        with socket.create_server((ADDRESS, 0)) as server:
            socket.create_connection(server.getsockname(), timeout=_TIMEOUT_S).close()
    except OSError as error:
        what = f"no connection within this machine: {error.strerror or error}"
        hint = "bring the interface up (ip link set lo up), or allow connections to it in the firewall"
        raise ServiceError(what, where=ADDRESS, hint=hint) from error
    return Condition(f"{ADDRESS} answers")
