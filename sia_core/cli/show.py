"""How runs look in a terminal.

The lineage stays readable in one of 100 columns: where it does not fit, looks and costs are left out, an interval
stands below its mean, and a model below its provider.
"""

import sys
from collections.abc import Sequence
from datetime import UTC, datetime

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from sia_core.cli.plain import plain
from sia_core.domain.errors import RecordError
from sia_core.domain.json_data import read
from sia_core.domain.lineage import Node
from sia_core.record.arms import ArmsRecord
from sia_core.record.phases import SealedDone, StopDone
from sia_core.record.store import RunRecord
from sia_core.record.summary import RunSummary
from sia_core.report.arms import ROW_COLUMNS, VERSUS_COLUMNS, arm_rows, notes, versus_rows
from sia_core.report.decided import calibrations, stand_in_lines
from sia_core.report.table import COLUMNS, lineage_rows, replies_lines, report_rows, sealed_lines, spent_lines
from sia_core.search.arms import ArmsPlan, Comparison

_LINE = 200
"""Width outside a terminal, so that logs hold whole rows."""

console = Console(highlight=False, emoji=False, width=None if sys.stdout.isatty() else _LINE)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table of texts."""
    console.print(_table(list(map(plain, columns)), [list(map(plain, row)) for row in rows]))


def print_runs(summaries: Sequence[RunSummary]) -> None:
    """Print a line for each run, newest first."""
    if not summaries:
        console.print("no runs yet; start one: sia run denoising")
        return
    rows = []
    for run in summaries:
        started = datetime.fromtimestamp(run.started / 1000, UTC).astimezone().strftime("%Y-%m-%d %H:%M")
        score = "-" if run.score is None else f"{run.score:.4f}"
        rows.append((run.name, run.task, run.status, run.generations, run.levers, score, started))
    print_table(("run", "task", "status", "generations", "levers", "sealed test", "started"), rows)


def print_comparisons(comparisons: Sequence[ArmsRecord]) -> None:
    """Print a line for each comparison, newest first."""
    rows = []
    for comparison in comparisons:
        try:
            plan = ArmsPlan.model_validate(comparison.plan)
        except RecordError as error:
            rows.append((comparison.name, comparison.task, comparison.status, "-", plain(error.what)))
            continue
        done = sum(one.status == "FINISHED" for one in comparison.summaries().values())
        runs = f"{done} of {len(plan.members)} finished"
        rows.append((comparison.name, comparison.task, comparison.status, runs, ", ".join(plan.arms)))
    if rows:
        print_table(("comparison", "task", "status", "runs", "arms"), rows)


def print_comparison(comparison: ArmsRecord) -> None:
    """Print the runs of a comparison, and its tables once there are any."""
    plan = ArmsPlan.model_validate(comparison.plan)
    console.print(f"{comparison.name}: {comparison.status.lower()}, task {comparison.task}. {plain(plan.about)}")
    runs, rows = comparison.summaries(), []
    for seed, arm in plan.members:
        run = runs.get((seed, arm.name))
        score = "-" if run is None or run.score is None else f"{run.score:.4f}"
        rows.append((str(seed), arm.name, run.name if run else "not begun", run.status if run else "-", score))
    print_table(("seed", "arm", "run", "status", "sealed test, mean"), rows)
    if (found := comparison.get_json("comparison.json")) is not None:
        print_arms(read(Comparison, found))
    print_stand_ins(comparison)
    if comparison.status not in ("RUNNING", "FINISHED"):
        console.print(f"not finished; resume with: sia arms --resume {comparison.name}")


def print_result(run: RunRecord) -> None:
    """Print the lineage table and the sealed test of a run."""
    config = run.config
    console.print(f"{run.name}: {run.status.lower()}, task {config.task}, levers {', '.join(config.levers) or 'none'}")
    nodes = run.nodes()
    table = lineage_table(nodes, console.width)
    console.print(table)
    if len(table.columns) < len(COLUMNS):
        console.print(f"{', '.join(ONLY_WIDE)}: in a terminal of {WIDE} columns, or by sia report {run.name}")
    console.print(
        f"scores and gains: fresh gate problems each generation, two-sided {config.confidence:.0%} intervals; "
        f"promoted when the one-sided {config.confidence:.0%} bound of the gain, valid over all looks, is above 0"
    )
    for one in calibrations(nodes):
        console.print(plain(str(one)))
    if (stop := run.phase(StopDone)) is not None:
        console.print(f"ended by rule {stop.rule}: {plain(stop.reason)}")
    test = run.phase(SealedDone)
    if test is not None:
        for line in sealed_lines(test, config.confidence):
            console.print(line)
        if figures := report_rows(test):
            print_table(tuple(figures[0]), [tuple(row.values()) for row in figures])
    for line in replies_lines(run):
        console.print(plain(line))
    if (kept := run.get_json("spending.json")) is not None:
        for line in spent_lines(kept, run.config.budget):
            console.print(line)
    if test is None and run.status != "RUNNING":
        console.print(f"not finished; resume with: sia resume {run.name}")
    for line in stand_in_lines(nodes):
        console.print(plain(line))


def print_arms(found: Comparison) -> None:
    """Print the tables of a comparison, and notes that explain them."""
    for columns, rows in ((ROW_COLUMNS, arm_rows(found)), (VERSUS_COLUMNS, versus_rows(found))):
        if rows:
            print_table(columns, rows)
    for note in notes(found):
        console.print(plain(note))


def print_stand_ins(comparison: ArmsRecord) -> None:
    """Print a line for each run of a comparison in which `rules` decided in the agent's place."""
    for run in comparison.summaries().values():
        if run.stand_ins:
            times = "once" if run.stand_ins == 1 else f"{run.stand_ins} times"
            console.print(f"{run.name}: rules decided {times} in place of its agent (sia status {run.name})")


WIDE = 160
"""Columns of a terminal from which the table is shown with all its columns."""
ONLY_WIDE = ("looks", "rollouts", "tokens")
_WHOLE = ("generation", "parent", "score", "gain over parent")
_FOLDS = {"score": (" [", "\n["), "gain over parent": (" [", "\n["), "decided by": (":", ":\n")}
"""Column -> where a line is broken in a narrow table."""


def lineage_table(nodes: Sequence[Node], width: int) -> Table:
    """One row a node, in `width` columns."""
    rows = lineage_rows(nodes)
    whole = _table(COLUMNS, [[plain(row[column]) for column in COLUMNS] for row in rows], _WHOLE)
    wide = Console(width=10_000)
    if width >= WIDE or Measurement.get(wide, wide.options, whole).maximum <= width:
        return whole
    columns = [column for column in COLUMNS if column not in ONLY_WIDE]
    return _table(
        columns, [[_fold(column, plain(row[column])) for column in columns] for row in rows], (*_WHOLE, *_FOLDS)
    )


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], whole: Sequence[str] = ()) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=column in whole)
    for row in rows:
        table.add_row(*row)
    return table


def _fold(column: str, text: str) -> str:
    before, after = _FOLDS.get(column, ("", ""))
    return text.replace(before, after, 1) if before else text
