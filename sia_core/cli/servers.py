"""The UIs' servers as the commands use them.

A link is printed only if a server answers there that shows the runs of this store. Else the command that starts one is
printed.
"""

import os
from collections.abc import Callable, Sequence
from contextlib import suppress

from sia_core.domain.errors import RecordError, SiaError
from sia_core.host import external, in_use
from sia_core.host.external import check_all, check_prefect, describe
from sia_core.host.home import home
from sia_core.host.logins import login_page, open_browser
from sia_core.host.machine import checks
from sia_core.host.machine.settings import leave_out
from sia_core.host.password import password, password_file
from sia_core.host.servers import ensure, find, wait_for
from sia_core.host.servers import leave as leave_service
from sia_core.host.servers import stop as stop_service
from sia_core.host.services import Service, mlflow_service, prefect_service
from sia_core.record.store import RunRecord
from sia_core.record.tags import Tag

DOWN = "not running; start it: sia ui"
_RECENT = 5
"""Runs that are linked to if none is named."""


def _print(text: str) -> None:
    print(text, flush=True)


def start(prefect_port: int | None = None, mlflow_port: int | None = None) -> None:
    """Start or find both, side by side, and keep them up. Servers named by the environment are used instead."""
    services = []
    if external.prefect_server() is None:
        services.append((prefect_service(), prefect_port))
    mlflow = _own_mlflow()
    if mlflow is not None:
        # The store must exist before a server opens it: two first openings at once break it.
        from sia_core.loop.create_run import record

        record()
        services.append((mlflow, mlflow_port))
    started = [(service, ensure(service, home(), port=port, wait=False, keep=True), port) for service, port in services]
    for service, running, port in started:
        wait_for(service, running, home(), moving=port is None)


def launch_prefect(say: Callable[[str], None] = _print) -> None:
    """Check the machine and say which servers are used; start a Prefect in the background if none is named.

    Raises:
        SiaError: the machine lacks something, or a server that the environment names cannot be used.
    """
    say(describe(home()))
    checks.check_all()
    check_all()
    if external.prefect_server() is None:
        ensure(prefect_service(), home(), wait=False)


def use_prefect(*, keep: bool = False) -> None:
    """Point this process at the Prefect server, once it answers.

    Args:
        keep: True to keep a server of SIA's up after this process.

    Raises:
        ServiceError: one that the environment names cannot be reached, or does not let us in.
    """
    checks.check_client()
    check_prefect()
    if external.prefect_server() is None:
        service = prefect_service()
        running = wait_for(service, ensure(service, home(), wait=False, keep=keep), home())
        leave_out(home())
        external.use_own_prefect(f"{running.url}{service.api}", password(home()))
    # A server that is started again is waited for: 2 + 4 + ... + 128 s, where Prefect's own 5 tries end after a minute.
    os.environ.setdefault("PREFECT_CLIENT_MAX_RETRIES", "7")
    # The flow's own errors are told by the command; Prefect's copy would be a second traceback.
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")


def hand_on() -> None:
    """Let the program that replaces this one continue to use the Prefect server."""
    if external.prefect_server() is None:
        in_use.hand_on(home(), prefect_service().name)


def leave() -> None:
    """End the Prefect server that this process started or used, unless another one uses it or the UIs are kept up."""
    if external.prefect_server() is None:
        leave_service(prefect_service(), home())


def stop() -> None:
    """End both servers, if this home started them."""
    for service in (prefect_service(), _own_mlflow() or mlflow_service()):
        ended = stop_service(service, home())
        print(f"{service.name}: {'ended' if ended else 'was not running'}")


def show(run: RunRecord) -> None:
    """Start the UIs after a run and link to the run. A UI that does not start is no failure of the run."""
    try:
        start()
    except SiaError as error:
        print(f"a UI did not start: {error}")
    print_links([run])


def print_links(runs: Sequence[RunRecord] | None = None) -> None:
    """Print the addresses of both UIs that answer, and links to runs in them: the newest ones if none is given."""
    from sia_core.loop.create_run import mlflow_address
    from sia_core.report.links import mlflow_run, prefect_flow_run

    if runs is None:
        runs = _recent()
    api, mlflow = _prefect_api(), mlflow_address()
    prefect = external.prefect_ui(api) if api else None
    links = [("", "Prefect", prefect or ""), ("", "MLflow", mlflow or "")]
    for run in runs:
        flow_run = run.tags.get(Tag.PREFECT_RUN)
        # A run may have been driven with another Prefect, which alone knows its flow run.
        if api and prefect and flow_run and external.knows_flow_run(api, flow_run):
            links.append((run.name, "Prefect", prefect_flow_run(prefect, flow_run)))
        if mlflow:
            links.append((run.name, "MLflow", mlflow_run(mlflow, run.experiment_id, run.run_id)))
    named = ""
    for name, server, url in links:
        if name != named:
            named = name
            print(f"{name}:")
        print(f"{'  ' if name else ''}{server:<7} {url or DOWN}")
    _print_login(links)


def _recent() -> list[RunRecord]:
    """Open the newest runs that this SIA and this SIA_HOME can read."""
    from sia_core.loop.create_run import record

    found, store = list[RunRecord](), record()
    for item in store.summaries():
        with suppress(RecordError):
            found.append(store.open(item.name))
        if len(found) == _RECENT:
            break
    return found


def _print_login(links: Sequence[tuple[str, str, str]]) -> None:
    """Write the page whose links log a browser in, and say where it is; nothing if both servers are others."""
    services = [service for service in (prefect_service(), _own_mlflow()) if service]
    running = [found for service in services if (found := find(service, home()))]
    if not running:
        return
    page = login_page(home(), running, links)
    print(f"log in: open {page.as_uri()} in a browser of this machine")
    print(f"        or enter the password in {password_file(home())}")
    print(f"{'both stay' if len(running) > 1 else 'it stays'} up until: sia ui --stop")
    open_browser(page)


def _own_mlflow() -> Service | None:
    """Return the MLflow server that SIA runs for the store in use; None if that store is a server, or has no UI."""
    from sia_core.loop.create_run import own_mlflow

    return own_mlflow()


def _prefect_api() -> str:
    """Return the address of the Prefect in use if it answers, or an empty text."""
    named = external.prefect_server()
    if named is None:
        running = find(prefect_service(), home())
        if running is None:
            return ""
        external.use_own_prefect(f"{running.url}{prefect_service().api}", password(home()))
        return f"{running.url}{prefect_service().api}"
    try:
        check_prefect()
    except SiaError:
        return ""
    return named.address
