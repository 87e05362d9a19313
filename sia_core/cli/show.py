"""How runs look in a terminal."""

import sys
from collections.abc import Sequence
from datetime import UTC, datetime

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sia_core.agents.memory import calibrate
from sia_core.record.store import RunRecord, RunSummary
from sia_core.report.arms import ROW_COLUMNS, VERSUS_COLUMNS, arm_rows, notes, versus_rows
from sia_core.report.spending import spent_lines
from sia_core.report.table import COLUMNS, lineage_rows, report_rows, sealed_lines
from sia_core.search.arms import Comparison

_LINE = 200
"""Width where there is no terminal: a log should hold whole rows."""

console = Console(highlight=False, width=None if sys.stdout.isatty() else _LINE)


def print_runs(summaries: Sequence[RunSummary]) -> None:
    """One line a run, newest first."""
    if not summaries:
        console.print("no runs yet; start one: sia run denoising")
        return
    table = Table(box=None, pad_edge=False)
    for column in ("run", "task", "status", "generations", "levers", "sealed test", "started"):
        table.add_column(column)
    for run in summaries:
        started = datetime.fromtimestamp(run.started / 1000, UTC).astimezone().strftime("%Y-%m-%d %H:%M")
        score = "-" if run.score is None else f"{run.score:.4f}"
        table.add_row(*map(escape, (run.name, run.task, run.status, run.generations, run.levers, score, started)))
    console.print(table)


def print_result(run: RunRecord) -> None:
    """The lineage table and the sealed test of one run."""
    config = run.config
    console.print(f"{run.name}: {run.status.lower()}, task {config.task}, levers {', '.join(config.levers) or 'none'}")
    table = Table(box=None, pad_edge=False)
    for column in COLUMNS:
        table.add_column(column, no_wrap=column in ("generation", "parent", "score", "gain over parent"))
    for row in lineage_rows(run.nodes()):
        table.add_row(*(escape(row[column]) for column in COLUMNS))
    console.print(table)
    console.print(
        f"scores and gains: fresh gate problems each generation, two-sided {config.confidence:.0%} intervals; "
        f"promoted when the one-sided {config.confidence:.0%} bound of the gain, valid over all looks, is above 0"
    )
    if (calibration := calibrate(run.nodes())) is not None:
        console.print(f"predictions: {calibration}")
    if (stop := run.phase("stop")) is not None:
        console.print(f"ended by rule {stop['rule']}: {escape(stop['reason'])}")
    test = run.phase("test")
    if test is not None:
        for line in sealed_lines(test, config.confidence):
            console.print(line)
        _print_report(report_rows(test))
    if (kept := run.get_json("spending.json")) is not None:
        for line in spent_lines(kept, run.budget):
            console.print(line)
    if test is None and run.status != "RUNNING":
        console.print(f"not finished; go on with: sia resume {run.name}")


def print_arms(found: Comparison) -> None:
    """The tables of a comparison of arms, and what they mean."""
    for columns, rows in ((ROW_COLUMNS, arm_rows(found)), (VERSUS_COLUMNS, versus_rows(found))):
        table = Table(*columns, box=None, pad_edge=False)
        for row in rows:
            table.add_row(*map(escape, row))
        if rows:
            console.print(table)
    for note in notes(found):
        console.print(escape(note))


def _print_report(rows: Sequence[dict[str, str]]) -> None:
    """The task's own figures for the sealed test, if it has any."""
    if not rows:
        return
    table = Table(box=None, pad_edge=False)
    for column in rows[0]:
        table.add_column(column)
    for row in rows:
        table.add_row(*map(escape, row.values()))
    console.print(table)
