"""Format the lineage as a table that stays readable in a terminal of 100 columns.

In a narrow terminal looks and costs are left out, an interval stands below its mean, and a model below its provider.
"""

from collections.abc import Sequence

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from sia_core.cli.plain import plain
from sia_core.domain.lineage import Node
from sia_core.report.table import COLUMNS, lineage_rows

WIDE = 160
"""Width of a terminal, in characters, from which all columns are shown."""
ONLY_WIDE = ("looks", "rollouts", "tokens")
_WHOLE = ("generation", "parent", "score", "gain over parent")
_FOLDS = {"score": (" [", "\n["), "gain over parent": (" [", "\n["), "decided by": (":", ":\n")}
"""Line break in a narrow table, by column."""


def lineage_table(nodes: Sequence[Node], width: int) -> Table:
    """Format a row for each node, in at most `width` characters."""
    rows = lineage_rows(nodes)
    whole = _table(COLUMNS, [[plain(row[column]) for column in COLUMNS] for row in rows], _WHOLE)
    if width >= WIDE or _natural_width(whole) <= width:
        return whole
    columns = [column for column in COLUMNS if column not in ONLY_WIDE]
    return _table(
        columns, [[_fold(column, plain(row[column])) for column in columns] for row in rows], (*_WHOLE, *_FOLDS)
    )


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], whole: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=column in whole)
    for row in rows:
        table.add_row(*row)
    return table


def _natural_width(table: Table) -> int:
    console = Console(width=10_000)
    return Measurement.get(console, console.options, table).maximum


def _fold(column: str, text: str) -> str:
    before, after = _FOLDS.get(column, ("", ""))
    return text.replace(before, after, 1) if before else text
