"""List the checks of the machine. `sia doctor` shows each result, and a run ends at the first that fails."""

from collections.abc import Callable, Mapping
from typing import Final

from sia_core.host.machine import descriptors, loopback, processors, proxies, scratch, settings
from sia_core.host.machine.condition import Condition

CHECKS: Final[Mapping[str, Callable[[], Condition]]] = {
    "proxy": proxies.check_proxies,
    "loopback": loopback.check_loopback,
    "cpus": processors.check_processors,
    "files": descriptors.check_descriptors,
    "tmp": scratch.check_temporary,
    "sockets": scratch.check_ray_directory,
    "shm": scratch.check_shared_memory,
    "settings": settings.check_settings,
}
"""Check by subject. Each raises a `SiaError` if a run cannot start."""


def check_all() -> None:
    """Check everything that a run needs of the machine.

    Raises:
        SiaError: the first check that fails.
    """
    for check in CHECKS.values():
        check()


def check_client() -> None:
    """Check what a client of Prefect needs; see `check_all`."""
    for subject in ("proxy", "loopback", "settings"):
        CHECKS[subject]()
