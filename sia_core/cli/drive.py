"""Seeing a run through: services, the flow, what to say when it ends or is cut short."""

import logging
import signal
import sys
from types import FrameType

from flows import start as opening
from flows.session import reporter
from sia_core.cli import servers
from sia_core.cli.live import Live
from sia_core.cli.show import console, print_result
from sia_core.config import RunConfig
from sia_core.disk import cannot_write, is_full
from sia_core.errors import INTERRUPTED, RecordError, SiaError
from sia_core.home import home
from sia_core.record.store import RunRecord


def start(config: RunConfig, *, ui: bool) -> None:
    """Start a run and drive it to its end."""
    sandbox = opening.check_sandbox(config)
    servers.launch_prefect()
    with Live(console) as live:
        task, harness = opening.prepare(config, live)
    run = opening.open_run(config, task, harness, sandbox)
    console.print(f"run {run.name}: {task.config.title}")
    missing = f", without {', '.join(sandbox.missing)}" if sandbox and sandbox.missing else ""
    console.print(f"sandbox tier {config.tier}{missing} · policy {config.policy} · agent {config.agent}")
    _drive(run, ui)


def go_on(name: str, *, ui: bool) -> None:
    """Go on with an interrupted run."""
    run = opening.record().open(name)
    if run.status == "FINISHED":
        raise RecordError("is finished", where=run.name, hint=f"see it: sia status {run.name}")
    servers.launch_prefect()
    with Live(console) as live:
        opening.prepare(run.config, live)
    console.print(f"run {run.name}: resuming")
    _drive(run, ui)


def _drive(run: RunRecord, ui: bool) -> None:
    signal.signal(signal.SIGTERM, _as_interrupt)
    try:
        servers.use_prefect()
        from flows.evolve import evolve  # Prefect reads its settings when it is imported.

        with Live(console) as live:
            token = reporter.set(live)
            try:
                evolve(run.name)
            finally:
                reporter.reset(token)
    except KeyboardInterrupt:
        _end(run, "KILLED")
        console.print(f"\ninterrupted; nothing finished is lost. Go on with: sia resume {run.name}")
        sys.exit(INTERRUPTED)
    except SiaError as error:
        _end(run, "FAILED")
        error.hint = f"{error.hint + '; ' if error.hint else ''}then: sia resume {run.name}"
        raise
    except BaseException as error:
        _end(run, "FAILED")
        if is_full(error):
            full = cannot_write(error, home())
            full.hint += f"; then: sia resume {run.name}"
            raise full from error
        console.print(f"\nunexpected failure; go on with: sia resume {run.name}")
        raise
    print_result(run)
    if ui:
        servers.start()
        servers.print_links(run)


def _end(run: RunRecord, status: str) -> None:
    """Close the record; what cannot be written now is no reason to hide why the run ended."""
    logging.disable()  # MLflow would log the whole traceback of what is told here in a line.
    try:
        run.end(status)
    except Exception as error:  # noqa: BLE001  (whatever the store raises when it is down or full)
        console.print(f"\nMLflow still shows the run as running: {type(error).__name__}")
    finally:
        logging.disable(logging.NOTSET)


def _as_interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
