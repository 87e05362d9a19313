"""The UIs' servers as the commands use them."""

import os
from collections.abc import Callable

from sia_core.host.external import check_all, check_prefect, describe, masked
from sia_core.host.home import home
from sia_core.host.servers import ensure, find, mlflow_service, prefect_service, wait_for
from sia_core.host.servers import stop as stop_service
from sia_core.record.tags import Tag


def _print(text: str) -> None:
    print(text, flush=True)


def start(prefect_port: int | None = None, mlflow_port: int | None = None) -> None:
    """Start or find both, side by side. Servers named by the environment are used instead."""
    services = []
    if not os.environ.get("PREFECT_API_URL"):
        services.append((prefect_service(), prefect_port))
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        # The store must exist before a server opens it: two first openings at once break it.
        from sia_core.loop.create_run import record

        record()
        services.append((mlflow_service(), mlflow_port))
    started = [(service, ensure(service, home(), port=port, wait=False), port) for service, port in services]
    for service, running, port in started:
        wait_for(service, running, home(), moving=port is None)


def launch_prefect(say: Callable[[str], None] = _print) -> None:
    """Say which servers are used, and see that they answer; start a Prefect in the background if none is named.

    Raises:
        ServiceError: a server that the environment names cannot be reached, or does not let us in.
    """
    say(describe(home()))
    check_all()
    if not os.environ.get("PREFECT_API_URL"):
        ensure(prefect_service(), home(), wait=False)


def use_prefect() -> None:
    """Point this process at the Prefect server, once it answers.

    Raises:
        ServiceError: one that the environment names cannot be reached, or does not let us in.
    """
    check_prefect()
    if not os.environ.get("PREFECT_API_URL"):
        service = prefect_service()
        running = wait_for(service, ensure(service, home(), wait=False), home())
        os.environ["PREFECT_API_URL"] = f"{running.url}{service.api}"
    # A server that is started again is waited for: 2 + 4 + ... + 128 s, where Prefect's own 5 tries end after a minute.
    os.environ.setdefault("PREFECT_CLIENT_MAX_RETRIES", "7")
    # The flow's own errors are told by the command; Prefect's copy would be a second traceback.
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")


def stop() -> None:
    """End both servers, if this home started them."""
    for service in (prefect_service(), mlflow_service()):
        ended = stop_service(service, home())
        print(f"{service.name}: {'ended' if ended else 'was not running'}")


def print_links(run: object | None = None) -> None:
    """Addresses of both UIs; deep links when a run is given."""
    from sia_core.loop.create_run import mlflow_address, record
    from sia_core.record.store import RunRecord
    from sia_core.report.links import mlflow_run, prefect_flow_run

    running = find(prefect_service(), home())
    prefect = masked(os.environ.get("PREFECT_API_URL", running.url if running else "")).removesuffix("/api")
    recent = [run] if isinstance(run, RunRecord) else [record().open(item.name) for item in record().summaries()[:5]]
    print(f"Prefect {prefect}")
    print(f"MLflow  {mlflow_address()}")
    for item in recent:
        flow_run = item.tags.get(Tag.PREFECT_RUN)
        print(f"{item.name}:")
        if flow_run:
            print(f"  Prefect {prefect_flow_run(prefect, flow_run)}")
        print(f"  MLflow  {mlflow_run(mlflow_address(), item.experiment_id, item.run_id)}")
