"""Drive a run to its end: start services and flow, and print the result or how to resume."""

import logging
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from sia_core import app
from sia_core.agents.recorded import is_recorded, recorded_lines
from sia_core.cli import servers
from sia_core.cli.live import Live
from sia_core.cli.plain import plain
from sia_core.cli.show import console, print_arms, print_result, print_stand_ins
from sia_core.cli.warm_start import begin
from sia_core.domain.config import RunConfig
from sia_core.domain.errors import INTERRUPTED, HeldError, SiaError, UsageError
from sia_core.domain.task import Task
from sia_core.host.disk import cannot_write, is_full
from sia_core.host.home import home
from sia_core.host.progress import Silent
from sia_core.host.signals import asked_to_end, interrupt, listening
from sia_core.loop import create_run
from sia_core.loop.session import reporter
from sia_core.record.arms import ArmsRecord
from sia_core.record.lease import LEAVE_S
from sia_core.record.patience import in_haste
from sia_core.record.store import RunRecord
from sia_core.record.tags import Tag
from sia_core.search.arms import ArmsPlan, Comparison, read_member
from sia_core.search.control import control_lines, table_of

Found = TypeVar("Found")


def start(config: RunConfig, *, ui: bool) -> None:
    """Start a run and finish it."""
    with Live(console) as live:
        run = app.start(config, live, meanwhile=servers.launch_prefect)
    console.print(f"run {run.name}: {Task.load(config.task).config.title}")
    lacking = run.tags[Tag.SANDBOX_MISSING]
    missing = f", without {lacking.replace(',', ', ')}" if lacking and config.sandbox != "none" else ""
    console.print(f"sandbox tier {config.sandbox}{missing} · policy {config.policy} · agent {config.agent}")
    _drive(run, ui)


def go_on(name: str, *, ui: bool, generations: int | None = None, changes: Mapping[str, Any]) -> None:
    """Resume a run, with changed settings or more generations if given."""
    run = app.resume(name, _Lines(), generations=generations, changes=changes)
    _go_on(run, f"run {run.name}: resuming", ui)


def go_back(name: str, generation: int, *, forked: bool, changes: Mapping[str, str], ui: bool) -> None:
    """Repeat a generation in the run or in a child run, and finish that run."""
    run = app.rerun(name, generation, forked=forked, changes=changes)
    origin = f", forked from {run.tags[Tag.FORKED_FROM]}" if forked else ""
    _go_on(run, f"run {run.name}{origin}: continuing from generation {generation}", ui)


def _go_on(run: RunRecord, what: str, ui: bool) -> None:
    begin(run.config.policy)
    servers.launch_prefect()
    with Live(console) as live:
        create_run.prepare_again(run.config, live, run)
    console.print(what)
    _drive(run, ui)


def compare(plan: ArmsPlan) -> None:
    """Start a comparison and finish it."""
    with Live(console) as live:
        comparison = app.compare(plan, live, meanwhile=servers.launch_prefect)
    _drive_arms(comparison)


def go_on_comparing(name: str, seeds: int | None = None, *, save: Path | None = None) -> None:
    """Resume a comparison, over more seeds if given, or show a finished one.

    Args:
        name: name of the comparison.
        seeds: total number of seeds.
        save: file for the sealed scores by arm and seed.
    """
    comparison = app.resume_comparison(name, seeds)
    servers.launch_prefect()
    _drive_arms(comparison)
    if save is not None:
        _save(comparison, save)


class _Lines(Silent):
    """Reporter that prints lines and draws nothing."""

    def say(self, text: str) -> None:
        """Implement `Reporter.say`."""
        console.print(text)


def _save(comparison: ArmsRecord, file: Path) -> None:
    config = ArmsPlan.model_validate(comparison.plan).config
    runs = [read_member(run) for run in comparison.members().values()]
    table = table_of(runs, config, Task.load(config.task), comparison.name)
    try:
        file.write_text(table.model_dump_json(indent=1) + "\n")
    except OSError as error:
        raise UsageError(f"cannot be written: {error.strerror}", where=f"--save {file}") from error
    console.print(f"sealed scores by arm and seed: {file}")


def _drive(run: RunRecord, ui: bool) -> None:
    def work() -> None:
        from flows.run import evolve_here  # Prefect reads its settings when it is imported.

        evolve_here(run.name)

    _see_through(work, f"sia resume {run.name}", lambda: [run])
    print_result(run)
    if is_recorded(run.config.agent):
        task = Task.load(run.config.task)
        for line in (*recorded_lines(run.config.agent, task), *control_lines(task, run.config)):
            console.print(plain(line))
    console.print(f"for the report, type: sia report {run.name}")
    if ui:
        servers.show(run)
    else:
        servers.leave()


def _drive_arms(comparison: ArmsRecord) -> None:
    def work() -> Comparison:
        from flows.comparison import arms_here

        return arms_here(comparison.name)

    def open_runs() -> list[RunRecord | ArmsRecord]:
        members = comparison.members().values()
        return [comparison, *(run for run in members if run.status == "RUNNING")]

    console.print(f"comparison {comparison.name}")
    print_arms(_see_through(work, f"sia arms --resume {comparison.name}", open_runs))
    print_stand_ins(comparison)
    servers.leave()


def _see_through(
    work: Callable[[], Found], again: str, open_runs: Callable[[], Sequence[RunRecord | ArmsRecord]]
) -> Found:
    """Do the work; on any failure or interrupt, close the open runs and print how to resume."""

    def close(status: str) -> None:
        with in_haste(LEAVE_S), _told():
            for run in open_runs():
                with _told():
                    run.end(status)

    def leave() -> NoReturn:
        close("KILLED")
        console.print(f"\ninterrupted; nothing finished is lost. Resume with: {again}")
        sys.exit(INTERRUPTED)

    signal.signal(signal.SIGTERM, interrupt)
    with listening():
        try:
            servers.use_prefect()
            with Live(console) as live:
                token = reporter.set(live)
                try:
                    return work()
                finally:
                    reporter.reset(token)
        except KeyboardInterrupt:
            leave()
        except HeldError:
            raise  # Another process holds the record and closes it.
        except SiaError as error:
            close("FAILED")
            error.then(again)
            raise
        except BaseException as error:
            if asked_to_end():  # Libraries turn the exception of a signal into other errors.
                leave()
            close("FAILED")
            if is_full(error):
                full = cannot_write(error, home())
                full.then(again)
                raise full from error
            console.print(f"\nunexpected failure; resume with: {again}")
            raise


@contextmanager
def _told() -> Iterator[None]:
    """Report errors while closing a record in a line, so that they do not hide why the run ended."""
    logging.disable()  # MLflow would log a whole traceback for this line.
    try:
        yield
    except Exception as error:  # noqa: BLE001  (a store that is down or full raises many kinds)
        console.print(f"\nMLflow still shows the run as running: {type(error).__name__}")
    finally:
        logging.disable(logging.NOTSET)
