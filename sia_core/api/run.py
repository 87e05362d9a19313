"""A run from a script or a notebook: what `sia run` does, with a result instead of a table.

Prefect's server is started if none is there, progress is drawn where there is a terminal or a notebook, and what cuts
the run short is raised, with the name to go on with: `sia resume RUN`, from any shell.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.console import Console

from sia_core.api.result import Result, read_result
from sia_core.domain.config import RunConfig
from sia_core.domain.errors import HeldError, SiaError, UsageError
from sia_core.domain.task import Task
from sia_core.domain.task_config import describe_invalid
from sia_core.host.library_env import be_quiet
from sia_core.loop.configure import build_config
from sia_core.record.store import RunRecord


def evolve(
    task: Task | str | Path,
    *,
    generations: int | None = None,
    levers: str | Sequence[str] = ("harness", "weights"),
    policy: str = "smollm2",
    agent: str = "rules",
    seed: int = 0,
    rollouts: int | None = None,
    problems: int | None = None,
    test_problems: int | None = None,
    budget: str = "",
    sandbox: str = "strict",
    progress: bool = True,
    **options: Any,
) -> Result:
    """Improve a task agent on a task, see it through, and return what came of it.

    Args:
        task: a task, the name of one that ships, or the path of your own.
        generations: as the task plans when None; so are `rollouts` (of each training problem), `problems` (a
            generation) and `test_problems` (sealed).
        levers: `harness`, `weights`, both or neither.
        policy: the language model, as `sia run --policy` takes it.
        agent: the Feedback-Agent, as `sia run --agent` takes it.
        seed: every random choice derives from it.
        budget: as `sia run --budget` takes it: "rollouts=5000,dollars=5".
        sandbox: tier that untrusted code runs in.
        progress: whether to draw progress.
        **options: what else `sia run` takes, by the names of `sia_core.domain.config.RunConfig`.

    Raises:
        UsageError: an option that cannot be meant.
        SiaError: whatever ends `sia run` with a message; where a run was begun, the message names it.
    """
    be_quiet()
    plan = {"generations": generations, "rollouts": rollouts, "problems": problems, "test_problems": test_problems}
    settings: dict[str, Any] = {
        "policy": policy,
        "agent": agent,
        "seed": seed,
        "budget": budget,
        "meta": False,
        **options,
    }
    levers = levers if isinstance(levers, str) else ",".join(levers)
    place = task.where if isinstance(task, Task) else str(task)
    try:
        config = build_config(place, plan, levers=levers, tier=sandbox, **settings)
    except ValidationError as error:
        raise UsageError(describe_invalid(error), where="evolve()", hint="help(sia_core.evolve)") from error
    return _run(config, Console(quiet=not progress, file=None if progress else sys.stderr))


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
    from sia_core.cli import servers
    from sia_core.cli.live import Live
    from sia_core.loop import create_run
    from sia_core.loop.session import reporter

    sandbox = create_run.check_sandbox(config)
    servers.launch_prefect()
    with Live(console) as live:
        task, harness = create_run.prepare(config, live)
        run = create_run.open_run(config, task, harness, sandbox)
        live.say(f"run {run.name}: {task.config.title}")
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
