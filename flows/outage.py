"""A Prefect server that is away in the middle of a run.

Flow runs cannot change their state without it: its client tries again for about four minutes (as
`cli.servers.use_prefect` has it), then the run ends with an error that says how to go on. The record is MLflow's, and
nothing of it is lost. What only shows how a run goes is dropped, and the run goes on.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
from prefect import get_run_logger
from prefect.exceptions import PrefectHTTPStatusError

from sia_core.errors import ServiceError
from sia_core.external import masked

AWAY = (httpx.TransportError, PrefectHTTPStatusError)


def show(make: Callable[[], object]) -> None:
    """Do what only shows something in Prefect, if Prefect is there."""
    try:
        make()
    except AWAY as error:
        get_run_logger().warning("this is not shown in Prefect: %r", error)


@contextmanager
def told() -> Iterator[None]:
    """Say in a line what Prefect's client says in a traceback.

    Raises:
        ServiceError: Prefect did not answer, or only with an error.
    """
    try:
        yield
    except AWAY as error:
        answered = isinstance(error, PrefectHTTPStatusError)
        what = "Prefect answers with an error" if answered else "Prefect does not answer"
        why = " ".join(str(error).split())[:200] or type(error).__name__
        where = masked(os.environ.get("PREFECT_API_URL", ""))
        raise ServiceError(f"{what}: {why}", where=where, hint="see that it runs") from error
