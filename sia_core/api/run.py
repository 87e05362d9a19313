"""A run from a script or a notebook: what `sia run` does, with a result instead of a table.

Prefect's server is started if none is there, progress is drawn where there is a terminal or a notebook, and what cuts
the run short is raised, with the name to go on with: `sia resume RUN`, from any shell.
"""

import inspect
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from sia_core.api.result import Result, read_result
from sia_core.domain.config import RunConfig
from sia_core.domain.errors import HeldError, SiaError
from sia_core.domain.setting import options
from sia_core.domain.task import Task
from sia_core.host.library_env import be_quiet
from sia_core.loop.configure import build_config
from sia_core.record.store import RunRecord


def evolve(task: Task | str | Path, *, progress: bool = True, **settings: Any) -> Result:
    """Improve a task agent on a task, see it through, and return the result.

    Args:
        task: a task, the name of one that ships, or the path of your own.
        progress: whether to draw progress.
        **settings: settings of the run, by the names of `sia_core.domain.config.RunConfig`; a text is read as on the
            command line. What is not given is the task's plan or the setting's default.

    Raises:
        UsageError: an unknown setting, or a value that it does not take.
        SiaError: whatever ends `sia run` with a message; where a run was begun, the message names it.
    """
    be_quiet()
    place = task.where if isinstance(task, Task) else str(task)
    config = build_config(place, **settings)
    if (branch_from := settings.get("branch_from")) is not None:
        from sia_core.loop.create_run import branch  # Loads MLflow.

        config = branch(config, branch_from, settings.get("seed"))
    return _run(config, Console(quiet=not progress, file=None if progress else sys.stderr))


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
    """The result of a finished run, by its name or how that begins.

    Raises:
        RecordError: unknown, or not finished.
    """
    be_quiet()
    from sia_core.loop.create_run import record

    return read_result(record().open(run))


def _run(config: RunConfig, console: Console) -> Result:
    # Prefect, Ray and MLflow take seconds to load, and read their settings when they are imported.
    from sia_core import app
    from sia_core.cli import servers
    from sia_core.cli.live import Live
    from sia_core.loop.session import reporter

    with Live(console) as live:
        run = app.start(config, live, meanwhile=servers.launch_prefect)
        live.say(f"run {run.name}: {Task.load(config.task).config.title}")
        token = reporter.set(live)
        try:
            servers.use_prefect()
            from flows.run import evolve_here

            evolve_here(run.name)
        except BaseException as error:
            _give_up(run, error)
            raise
        finally:
            reporter.reset(token)
    return read_result(run)


def _give_up(run: RunRecord, error: BaseException) -> None:
    """Close the record, and say how to go on."""
    if isinstance(error, HeldError):
        return  # It is another process's to close.
    again = f"sia resume {run.name}"
    if isinstance(error, SiaError):
        error.hint = f"{error.hint + '; ' if error.hint else ''}then: {again}"
    else:
        error.add_note(f"nothing finished is lost; go on with: {again}")
    try:
        run.end("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
    except Exception as also:  # noqa: BLE001  (whatever the store raises when it is down or full)
        error.add_note(f"MLflow still shows the run as running: {type(also).__name__}")
