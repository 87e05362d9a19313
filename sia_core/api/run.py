"""Run the loop from a script or a notebook, as `sia run` does, and return a result instead of a table.

Prefect's server is started if none is running, and progress is drawn in a terminal or notebook. An error that ends the
run is raised with the command that resumes it, `sia resume RUN`.
"""

import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from sia_core.api.result import Result, read_result
from sia_core.api.silence import silence
from sia_core.domain.config import RunConfig
from sia_core.domain.errors import HeldError, SiaError, UsageError
from sia_core.domain.near import did_you_mean
from sia_core.domain.setting import options
from sia_core.domain.task import Task
from sia_core.host.machine.process import prepare
from sia_core.loop.configure import build_config
from sia_core.record.store import RunRecord


def evolve(task: Task | str | Path, *, progress: bool = True, **settings: Any) -> Result:
    """Improve a task agent on a task, and return the result once the run is finished.

    Args:
        task: a task, the name of one that ships, or the path of your own.
        progress: True to draw progress.
        **settings: settings of the run, by the names of `sia_core.domain.config.RunConfig`. Texts are parsed as on the
            command line; missing settings come from the task's plan or their default.

    Raises:
        UsageError: a setting is unknown, or its value is invalid.
        SiaError: any error that ends `sia run` with a message, which names the run if it was created.
    """
    prepare()
    place = task.where if isinstance(task, Task) else str(task)
    _check_names(settings)
    config = build_config(place, **settings)
    if (branch_from := settings.get("branch_from")) is not None:
        from sia_core.loop.create_run import branch  # Loads MLflow.

        config = branch(config, branch_from, settings.get("seed"))
    if progress:
        return _run(config, Console())
    with silence():
        return _run(config, Console(quiet=True, file=sys.stderr))


def _check_names(settings: Mapping[str, Any]) -> None:
    known = ("task", "progress", *(one.name for one in options(RunConfig)))
    for name in settings:
        if name not in known:
            what = f"there is no setting {name!r}{did_you_mean(name, known)}"
            raise UsageError(what, where="evolve", hint="see: help(sia_core.evolve), or sia run --help")


def _signature() -> inspect.Signature:
    """Show the settings in `help(evolve)` and in a notebook."""
    task, progress, _ = inspect.signature(evolve).parameters.values()
    kind = inspect.Parameter.KEYWORD_ONLY
    settings = [
        inspect.Parameter(one.name, kind, default=one.default, annotation=RunConfig.model_fields[one.name].annotation)
        for one in options(RunConfig)
    ]
    return inspect.Signature([task, *settings, progress], return_annotation=Result)


evolve.__signature__ = _signature()  # type: ignore[attr-defined]


def load_result(run: str) -> Result:
    """Read the result of a finished run, by its name or the beginning of the name.

    Raises:
        RecordError: the run is unknown or not finished.
    """
    prepare()
    from sia_core.loop.create_run import record

    return read_result(record().open(run))


def _run(config: RunConfig, console: Console) -> Result:
    # Prefect, Ray and MLflow take seconds to load, and read their settings when they are imported.
    from sia_core import app
    from sia_core.cli import servers
    from sia_core.cli.live import Live
    from sia_core.loop.session import reporter

    with Live(console) as live:
        token = reporter.set(live)
        try:
            run = app.start(config, live, meanwhile=lambda: servers.launch_prefect(live.say))
            live.say(f"run {run.name}: {Task.load(config.task).config.title}")
            try:
                servers.use_prefect()
                from flows.run import evolve_here

                evolve_here(run.name)
            except BaseException as error:
                _give_up(run, error)
                raise
            return read_result(run)
        finally:
            reporter.reset(token)


def _give_up(run: RunRecord, error: BaseException) -> None:
    """Close the record, and add to the error how to resume."""
    if isinstance(error, HeldError):
        return  # Another process holds the record and closes it.
    again = f"sia resume {run.name}"
    if isinstance(error, SiaError):
        error.then(again)
    else:
        error.add_note(f"nothing finished is lost; resume with: {again}")
    try:
        run.end("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
    except Exception as also:  # noqa: BLE001  (a store that is down or full raises many kinds)
        error.add_note(f"MLflow still shows the run as running: {type(also).__name__}")
