"""Open files: raise this process's limit as far as it may, and see that the limit is enough for Ray and Prefect."""

import resource
from typing import Final

from sia_core.domain.errors import ServiceError
from sia_core.host.machine.condition import Condition

ENOUGH: Final = 65_536
"""Limit beyond which more has no use; some programs walk through all numbers up to the limit."""
LEAST: Final = 256
"""Limit below which a run does not start: Prefect's and MLflow's servers and Ray's driver hold up to 150 open files."""
GOOD: Final = 1024


def raise_limit() -> int:
    """Raise the limit of open files of this process and its children; return the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = ENOUGH if hard == resource.RLIM_INFINITY else min(hard, ENOUGH)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return ENOUGH if soft == resource.RLIM_INFINITY else soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):  # A sandbox around this process may forbid the change.
        return soft
    return wanted


def check_descriptors() -> Condition:
    """Check that enough files can be open at once.

    Raises:
        ServiceError: too few.
    """
    limit = raise_limit()
    fix = "ulimit -n 65536, by root: /etc/security/limits.conf, or docker run --ulimit nofile=65536"
    if limit < LEAST:
        raise ServiceError(f"only {limit} files can be open at once, a run needs {LEAST}", where="ulimit -n", hint=fix)
    seen = f"{limit} open files"
    return Condition(seen, fix) if limit < GOOD else Condition(seen)
