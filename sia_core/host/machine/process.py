"""Set up a process of SIA and its children, before libraries read their variables."""

from sia_core.host import library_env
from sia_core.host.machine import descriptors, proxies


def prepare() -> None:
    """Quieten libraries, keep proxies away from this machine's own servers, and allow more open files. Idempotent."""
    library_env.be_quiet()
    proxies.spare_loopback()
    descriptors.raise_limit()
